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
	want, got     int64 // want: -1 for not known
}

// pace is the request with a paced body. It is a copy: the server looks at the body that it made itself when it is about to answer. What
// nobody reads of it the server reads, before or after its answer, and waits no longer for that either.
func pace(w http.ResponseWriter, r *http.Request, grace time.Duration) *http.Request {
	if r.Body == nil || r.Body == http.NoBody {
		return r
	}
	p := &paced{ReadCloser: r.Body, conn: http.NewResponseController(w), grace: grace, want: r.ContentLength}
	if err := p.deadline(time.Now().Add(grace)); err != nil {
		return r // the connection is broken, as whoever reads will see
	}
	q := *r
	q.Body = p
	return &q
}

// deadline is when a read fails; zero: never. A recorder of answers in a test has none.
func (p *paced) deadline(at time.Time) error {
	if err := p.conn.SetReadDeadline(at); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("body: %w", err)
	}
	return nil
}

func (p *paced) Read(b []byte) (int, error) {
	began := time.Now()
	if err := p.deadline(began.Add(p.grace + time.Duration(float64(p.got)/bodyPace*float64(time.Second)) - p.waited)); err != nil {
		return 0, err
	}
	n, err := p.ReadCloser.Read(b)
	p.got, p.waited = p.got+int64(n), p.waited+time.Since(began)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return n, fmt.Errorf("%w: the body came too slowly (%d bytes in %v): want it within %v, and %d kB a second from then on", api.ErrInvalid, p.got, p.waited.Round(time.Millisecond), p.grace, bodyPace>>10)
	}
	if err == io.EOF || p.got == p.want { // from here on the server reads, to see whether the caller is still there
		if derr := p.deadline(time.Time{}); derr != nil && err == nil {
			err = derr
		}
	}
	return n, err
}
