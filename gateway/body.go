package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// A request that is begun and never ended holds a place at the door, and its body memory, for as long as its sender likes. So bodies must come
// at a pace: so many bytes a second after a time of grace, for a payload as for an object of a gigabyte.
const bodyPace = 16 << 10

// paced is a body whose reading fails once it was waited for too long. What this side takes its time for does not count.
type paced struct {
	io.ReadCloser
	conn          *http.ResponseController
	grace, waited time.Duration
	got           int64
}

func pace(w http.ResponseWriter, body io.ReadCloser, grace time.Duration) io.ReadCloser {
	if body == nil || body == http.NoBody {
		return body
	}
	return &paced{ReadCloser: body, conn: http.NewResponseController(w), grace: grace}
}

func (p *paced) Read(b []byte) (int, error) {
	began := time.Now()
	left := p.grace + time.Duration(float64(p.got)/bodyPace*float64(time.Second)) - p.waited
	if err := p.conn.SetReadDeadline(began.Add(left)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, fmt.Errorf("body: %w", err)
	}
	n, err := p.ReadCloser.Read(b)
	p.got, p.waited = p.got+int64(n), p.waited+time.Since(began)
	if errors.Is(err, os.ErrDeadlineExceeded) { // which stays, or the server would wait for the rest before it answers
		return n, fmt.Errorf("%w: the body came too slowly (%d bytes in %v): want it within %v, and %d kB a second from then on", api.ErrInvalid, p.got, p.waited.Round(time.Millisecond), p.grace, bodyPace>>10)
	}
	// Not longer than it is read: the server goes on to look whether the caller is still there.
	if cerr := p.conn.SetReadDeadline(time.Time{}); err == nil && cerr != nil && !errors.Is(cerr, http.ErrNotSupported) {
		err = fmt.Errorf("body: %w", cerr)
	}
	return n, err
}
