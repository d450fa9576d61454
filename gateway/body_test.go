package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/rubato-faas/rubato/api"
)

// A sender that begins and does not go on is cut off, whatever it sends; one that takes its time, but comes, is served.
func TestSlowBodiesAreCutOff(t *testing.T) {
	d := newDoor(t, "off")
	d.cfg.BodyGrace = time.Second
	d.rewire(t)
	srv := httptest.NewServer(d.h)
	defer srv.Close()
	for _, x := range []struct{ route, head string }{
		{"POST /v1/functions/f/invoke", "Content-Length: 1000\r\n\r\nhalf"},
		{"PUT /v1/objects/o", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"},
		{"PUT /v1/functions/f", "Content-Length: 1000\r\n\r\n{"},
	} {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\n%s", x.route, x.head); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 400") || !strings.Contains(string(answer), "too slowly") {
			t.Errorf("%s: %q, %v", x.route, answer, err)
		}
		_ = c.Close()
	}
	// What nobody reads is not waited for: a sender that asks first is answered, and one whose body never comes is not kept.
	for _, head := range []string{
		"POST /v1/functions/none/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n",
		"GET /v1/functions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
	} {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, head); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 ") {
			t.Errorf("%.40q: %q, %v", head, answer, err)
		}
		_ = c.Close()
	}
	if _, err := d.store.Stat(t.Context(), "t/default/o/o"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("half an object: %v", err)
	}
	// The answer comes long after the body's time.
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := readBody(pace(w, r, time.Second).Body, r.ContentLength)
		select {
		case <-time.After(2 * time.Second):
		case <-r.Context().Done():
			err = r.Context().Err()
		}
		fmt.Fprintf(w, "%d bytes, %v", len(body), err)
	}))
	defer slow.Close()
	resp, err := http.Post(slow.URL, "", bytes.NewReader(make([]byte, 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, err := io.ReadAll(resp.Body); string(said) != "1048576 bytes, <nil>" {
		t.Errorf("%q, %v", said, err)
	}
}

func TestReadBody(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	for _, n := range []int{1, 10, api.InlineBytes - 1, api.InlineBytes, api.InlineBytes + 1, len(data)} {
		for _, length := range []int64{int64(n), -1} {
			if b, err := readBody(iotest.HalfReader(bytes.NewReader(data[:n])), length); err != nil || !bytes.Equal(b, data[:n]) {
				t.Errorf("%d bytes, said to be %d: %d, %v", n, length, len(b), err)
			}
		}
		if b, err := readBody(bytes.NewReader(data[:n-1]), int64(n)); !errors.Is(err, io.ErrUnexpectedEOF) || len(b) != n-1 {
			t.Errorf("a byte less than the %d that were said: %d, %v", n, len(b), err)
		}
		if b, err := readBody(bytes.NewReader(data[:n-1]), 64<<20); !errors.Is(err, io.ErrUnexpectedEOF) || cap(b) > 4*n+2*api.InlineBytes {
			t.Errorf("%d bytes of 64 MiB that were said take %d, %v", n-1, cap(b), err)
		}
	}
}
