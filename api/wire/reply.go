package wire

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/rubato-faas/rubato/api"
)

// Bounds of what people look at: JSON above zipAbove is compressed, since a full zone's nodes or a page of decisions would not go into
// one message; a reader takes up to MaxViewBytes of JSON.
const (
	zipAbove     = 64 << 10
	MaxViewBytes = 64 << 20
	replyRoom    = 4096 // of a message, for all but the data
)

// NewQueryReply answers a query with JSON, or with err. What is too large for one message is an answer that says so.
func NewQueryReply(q *Query, json []byte, err error) *QueryReply {
	r := &QueryReply{Data: json}
	if err == nil && q.TakesZip && len(json) > zipAbove {
		r.Data, err = zip(json)
		r.Zipped = true
	}
	if err == nil && (len(r.Data) > MaxMessageBytes-replyRoom || len(json) > MaxViewBytes) {
		err = fmt.Errorf("%w: %d bytes of answer do not go into one message (a zone's leader gives them at its own door)", api.ErrTooLarge, len(json))
	}
	if err != nil {
		r = &QueryReply{Code: api.CodeOf(err), Message: err.Error()}
	}
	return r
}

// JSON is what the reply holds, or the error that it is.
func (r *QueryReply) JSON() ([]byte, error) {
	if err := r.Code.Err(r.Message); err != nil || !r.Zipped {
		return r.Data, err
	}
	z, err := gzip.NewReader(bytes.NewReader(r.Data))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	b, err := io.ReadAll(io.LimitReader(z, MaxViewBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(b) > MaxViewBytes {
		return nil, fmt.Errorf("%w: more than %d bytes of answer", ErrMalformed, MaxViewBytes)
	}
	return b, nil
}

func zip(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(b)
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	return out.Bytes(), err
}
