package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/rubato-faas/rubato/api"
)

// Error is the body of every failure.
type Error struct {
	Code      api.Code        `json:"code"`
	Message   string          `json:"message"`
	RequestID string          `json:"request_id"`
	Detail    json.RawMessage `json:"detail,omitempty"`
}

// statusOf maps a code to its HTTP status.
func statusOf(code api.Code) int {
	switch code {
	case api.CodeInvalid:
		return http.StatusBadRequest
	case api.CodeNotFound:
		return http.StatusNotFound
	case api.CodeExists:
		return http.StatusConflict
	case api.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case api.CodeDenied:
		return http.StatusForbidden
	case api.CodeOverloaded:
		return http.StatusTooManyRequests
	case api.CodeUnavailable, api.CodeFenced:
		return http.StatusServiceUnavailable
	case api.CodeDeadline:
		return http.StatusGatewayTimeout
	case api.CodeCanceled:
		return statusClientClosed
	case api.CodeFunction:
		return http.StatusBadGateway
	}
	return http.StatusInternalServerError
}

// statusClientClosed is what nginx made customary for callers that went away.
const statusClientClosed = 499

// writeError answers an error of the door itself.
func writeError(w http.ResponseWriter, id string, err error) {
	switch {
	case errors.Is(err, errUnauthorized):
		w.Header().Set("WWW-Authenticate", `Bearer realm="rubato"`)
		writeFailure(w, http.StatusUnauthorized, Error{Code: api.CodeDenied, Message: err.Error(), RequestID: id}, 0)
	case errors.Is(err, errForbidden):
		writeFailure(w, http.StatusForbidden, Error{Code: api.CodeDenied, Message: err.Error(), RequestID: id}, 0)
	default:
		code := api.CodeOf(err)
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			code = api.CodeTooLarge
		}
		writeFailure(w, statusOf(code), Error{Code: code, Message: err.Error(), RequestID: id}, 0)
	}
}

// writeFailure writes the JSON body; 429 and 503 always tell when to come back.
func writeFailure(w http.ResponseWriter, status int, e Error, retryMs int64) {
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.FormatInt(max((retryMs+999)/1000, 1), 10))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e) // the caller went away: nobody is left to tell
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // as above
	return nil
}
