package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/sandbox"
)

// maxErrorBytes bounds an error document that a function reports.
const maxErrorBytes = 256 << 10

// answer is how a call ended by the function's own word.
type answer struct {
	payload []byte
	doc     []byte // error document
	err     error  // the answer could not be taken
}

// lambda is the server side of the Lambda Runtime API for one process.
type lambda struct {
	limit int64 // of a result's bytes

	listener net.Listener
	server   *http.Server
	served   chan struct{} // closed when the server's goroutine has ended
	stop     chan struct{} // closed to end long polls

	// polled gets a token whenever the process asks for work while nobody has taken the last token.
	polled chan struct{}
	work   chan *invocation // to the long poll
	failed chan []byte      // an init error's document

	mu       sync.Mutex
	current  *invocation // what the process works on
	stopping bool
	handlers sync.WaitGroup // requests being answered; Add only under mu while not stopping
}

// invocation is a call on its way through the process.
type invocation struct {
	call    *sandbox.Call
	header  http.Header
	answers chan answer // takes one
}

func newLambda(limit int64) (*lambda, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("runtime api: %w", err)
	}
	l := &lambda{
		limit: limit, listener: ln, served: make(chan struct{}), stop: make(chan struct{}),
		polled: make(chan struct{}, 1), work: make(chan *invocation), failed: make(chan []byte, 1),
	}
	l.server = &http.Server{Handler: l.counted(l.routes()), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 2 << 20}
	go l.serve()
	return l, nil
}

func (l *lambda) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", l.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", l.response)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", l.invocationError)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", l.initError)
	return mux
}

func (l *lambda) serve() {
	defer close(l.served)
	_ = l.server.Serve(l.listener) // ends with ErrServerClosed; a broken listener shows as calls that time out
}

// addr is what AWS_LAMBDA_RUNTIME_API says.
func (l *lambda) addr() string { return l.listener.Addr().String() }

// counted lets close wait for requests that are being answered.
func (l *lambda) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		if l.stopping {
			l.mu.Unlock()
			refuse(w, http.StatusServiceUnavailable, "Runtime.Stopping", "sandbox is closed")
			return
		}
		l.handlers.Add(1)
		l.mu.Unlock()
		defer l.handlers.Done()
		h.ServeHTTP(w, r)
	})
}

// close ends all requests and waits for them.
func (l *lambda) close() error {
	l.mu.Lock()
	l.stopping = true
	l.mu.Unlock()
	close(l.stop)
	err := l.server.Close()
	<-l.served
	l.handlers.Wait()
	return err
}

// poll notes that the process asks for work. One that asks twice still gets one call at a time.
func (l *lambda) poll() {
	select {
	case l.polled <- struct{}{}:
	default:
	}
}

// next is the long poll: it answers when there is a call.
func (l *lambda) next(w http.ResponseWriter, r *http.Request) {
	l.poll()
	select {
	case inv := <-l.work:
		l.mu.Lock()
		l.current = inv
		l.mu.Unlock()
		for k, v := range inv.header {
			w.Header()[k] = v
		}
		if _, err := w.Write(inv.call.Payload); err != nil {
			l.finish(inv.call.ID, answer{err: fmt.Errorf("%w: payload not taken: %w", sandbox.ErrCrashed, err)})
		}
	case <-l.stop:
		refuse(w, http.StatusServiceUnavailable, "Runtime.Stopping", "sandbox is closed")
	case <-r.Context().Done():
	}
}

func (l *lambda) response(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r, l.limit)
	switch {
	case errors.Is(err, api.ErrTooLarge):
		l.finish(r.PathValue("id"), answer{err: fmt.Errorf("result: %w", err)})
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "result is too large")
	case err != nil:
		l.finish(r.PathValue("id"), answer{err: fmt.Errorf("%w: result: %w", sandbox.ErrCrashed, err)})
		refuse(w, http.StatusBadRequest, "InvalidRequest", "result was cut off")
	case r.Trailer.Get("Lambda-Runtime-Function-Error-Type") != "":
		// The function failed in the middle of a result that it streams.
		l.accept(w, r, answer{doc: errorDocument(nil, r.Trailer.Get("Lambda-Runtime-Function-Error-Type"))})
	default:
		l.accept(w, r, answer{payload: body})
	}
}

func (l *lambda) invocationError(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r, maxErrorBytes)
	if err != nil {
		body = nil // the function has failed in any case; its type is in a header
	}
	l.accept(w, r, answer{doc: errorDocument(body, r.Header.Get("Lambda-Runtime-Function-Error-Type"))})
}

func (l *lambda) initError(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r, maxErrorBytes)
	if err != nil {
		body = nil
	}
	select {
	case l.failed <- errorDocument(body, r.Header.Get("Lambda-Runtime-Function-Error-Type")):
	default: // only the first counts
	}
	accepted(w)
}

// accept passes the answer on, if the process still works on that call.
func (l *lambda) accept(w http.ResponseWriter, r *http.Request, a answer) {
	if !l.finish(r.PathValue("id"), a) {
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "no such invocation")
		return
	}
	accepted(w)
}

func (l *lambda) finish(id string, a answer) bool {
	l.mu.Lock()
	inv := l.current
	if inv == nil || inv.call.ID != id {
		l.mu.Unlock()
		return false
	}
	l.current = nil
	l.mu.Unlock()
	inv.answers <- a // never blocks: room for one, and current was there once
	return true
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("%w: above %d bytes", api.ErrTooLarge, limit)
	}
	return body, err
}

// errorDocument is what the function reported, if that is JSON, else one made of the error's type.
func errorDocument(body []byte, kind string) []byte {
	if len(body) > 0 && json.Valid(body) {
		return body
	}
	if kind == "" {
		kind = "Runtime.Unknown"
	}
	doc, err := json.Marshal(map[string]string{"errorMessage": strings.ToValidUTF8(string(body), "?"), "errorType": kind})
	if err != nil {
		return []byte(`{"errorMessage":"","errorType":"Runtime.Unknown"}`) // strings always marshal
	}
	return doc
}

func accepted(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"status":"OK"}`) // a process that has gone shows by itself
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errorMessage":%q,"errorType":%q}`, message, kind) // as above
}

// headers are what the process is told of a call beside its payload.
func headers(c *sandbox.Call, fn *api.Function, inputsDir string) (http.Header, error) {
	h := http.Header{
		"Content-Type":                  {"application/json"},
		"Content-Length":                {strconv.Itoa(len(c.Payload))},
		"Lambda-Runtime-Aws-Request-Id": {c.ID},
	}
	deadline := c.Deadline
	if deadline.IsZero() {
		deadline = time.Now().Add(fn.Timeout)
	}
	h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(deadline.UnixMilli(), 10))
	arn := c.ARN
	if arn == "" {
		arn = fn.Name
	}
	h.Set("Lambda-Runtime-Invoked-Function-Arn", arn)
	if c.Trace != "" {
		h.Set("Lambda-Runtime-Trace-Id", c.Trace)
	}
	names := make([]string, len(c.Inputs))
	for i, in := range c.Inputs {
		names[i] = in.Name
	}
	custom := map[string]string{"rubato_inputs": inputsDir, "rubato_input_names": strings.Join(names, ",")}
	doc, err := json.Marshal(map[string]any{"custom": custom})
	if err != nil {
		return nil, fmt.Errorf("client context: %w", err)
	}
	h.Set("Lambda-Runtime-Client-Context", string(doc))
	return h, nil
}
