// Package client talks to a Rubato front door over HTTP: what the rubato command and Go programs use. docs/http.md is
// the reference of what it speaks. It retries only what is safe to send again, within a budget. A Client is safe for
// concurrent use.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/rubato-faas/rubato/api"
)

// Client is bound to one front door or several equal ones.
type Client struct {
	base   []string
	token  string
	tenant string
	http   *http.Client
}

// Option changes a client.
type Option func(*Client)

// WithToken sends a bearer token with every request.
func WithToken(token string) Option { return func(c *Client) { c.token = token } }

// WithTenant names the tenant; doors with authentication ignore it and go by the token.
func WithTenant(tenant string) Option { return func(c *Client) { c.tenant = tenant } }

// WithHTTPClient replaces the HTTP client.
func WithHTTPClient(h *http.Client) Option { return func(c *Client) { c.http = h } }

// dialTimeout is how long a door may take to be reached before the next one is tried.
const dialTimeout = 3 * time.Second

// New makes a client of the front doors at the given base URLs; the first one that answers serves.
func New(base []string, opts ...Option) (*Client, error) {
	c := &Client{http: &http.Client{Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		MaxIdleConnsPerHost: 64, IdleConnTimeout: 50 * time.Second, ExpectContinueTimeout: time.Second,
	}}}
	for _, b := range base {
		u, err := url.Parse(strings.TrimRight(b, "/"))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("%w: server %q: want a URL like http://127.0.0.1:7070", api.ErrInvalid, b)
		}
		c.base = append(c.base, u.String())
	}
	if len(c.base) == 0 {
		return nil, fmt.Errorf("%w: no server given", api.ErrInvalid)
	}
	for _, o := range opts {
		o(c)
	}
	return c, nil
}

// Error is a failure as the door told it.
type Error struct {
	Status    int             `json:"-"`
	Code      api.Code        `json:"code"`
	Message   string          `json:"message"`
	RequestID string          `json:"request_id"`
	Detail    json.RawMessage `json:"detail"`
	retry     time.Duration
}

func (e *Error) Error() string {
	s := e.Message
	if len(e.Detail) > 0 {
		s += ": " + string(e.Detail)
	}
	return fmt.Sprintf("%s (%d %s, request %s)", s, e.Status, e.Code, e.RequestID)
}

// Unwrap gives the sentinel of package api that the code stands for.
func (e *Error) Unwrap() error {
	if err := e.Code.Err(""); err != nil {
		return errors.Unwrap(err)
	}
	return nil
}

// Retries of requests that are safe to send again.
const (
	maxTries   = 5
	maxElapsed = 15 * time.Second
)

// request is one call of the API.
type request struct {
	method, path string
	header       http.Header
	// body makes the body anew for every try; nil is none.
	body func() (io.Reader, error)
	size int64
	// again: the request may be sent twice.
	again bool
}

// do sends the request and returns a successful response, whose body the caller closes.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	tries := uint(1)
	if r.again {
		tries = maxTries
	}
	var last error // what the door said, without the retrier's own words
	resp, err := backoff.Retry(ctx, func() (*http.Response, error) {
		resp, err := c.once(ctx, r)
		last = err
		var e *Error
		switch {
		case err == nil:
			return resp, nil
		case !errors.As(err, &e):
			return nil, err
		case e.Status != http.StatusTooManyRequests && e.Status != http.StatusServiceUnavailable:
			return nil, backoff.Permanent(err)
		case e.retry > 0:
			return nil, &backoff.RetryAfterError{Duration: e.retry}
		}
		return nil, err
	}, backoff.WithMaxTries(tries), backoff.WithMaxElapsedTime(maxElapsed), backoff.WithBackOff(backoff.NewExponentialBackOff()))
	switch {
	case err == nil:
		return resp, nil
	case ctx.Err() != nil:
		return nil, ended(ctx, last)
	}
	return nil, last
}

// ended says that the caller's context ended, and what was wrong until then.
func ended(ctx context.Context, last error) error {
	kind := api.ErrCanceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = api.ErrDeadline
	}
	return fmt.Errorf("%w: %w; the last try: %w", kind, ctx.Err(), last)
}

// once tries the doors in order until one can be reached.
func (c *Client) once(ctx context.Context, r request) (*http.Response, error) {
	var errs []error
	for _, base := range c.base {
		var body io.Reader
		if r.body != nil {
			var err error
			if body, err = r.body(); err != nil {
				return nil, err
			}
		}
		req, err := http.NewRequestWithContext(ctx, r.method, base+r.path, body)
		if err != nil {
			return nil, err
		}
		for k, v := range r.header {
			req.Header[k] = v
		}
		if r.size > 0 {
			req.ContentLength = r.size
		}
		if r.size > askFirst {
			req.Header.Set("Expect", "100-continue")
		}
		if c.token != "" {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		if c.tenant != "" {
			req.Header.Set("X-Tenant", c.tenant)
		}
		resp, err := c.http.Do(req)
		if err == nil {
			return checked(resp)
		}
		errs = append(errs, err)
		if !isDial(err) {
			break // it may have arrived
		}
	}
	return nil, fmt.Errorf("%w: no front door answers (is `rubato up` running? --server names another): %w", api.ErrUnavailable, errors.Join(errs...))
}

// askFirst is the size above which a body is sent only once the door asks for it: one that has the artifact already, or
// refuses it, answers at once and none of it travels. It costs one round trip.
const askFirst = 256 << 10

// isDial says that no connection came about, so that the request cannot have arrived.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// checked turns an answer above 299 into an Error.
func checked(resp *http.Response) (*http.Response, error) {
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &Error{Status: resp.StatusCode}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(b, e) != nil || e.Code == "" {
		e.Code, e.Message = api.CodeInternal, strings.TrimSpace(string(b))
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		e.retry = time.Duration(s) * time.Second
	}
	return nil, e
}

// bytesBody makes a body that can be sent again.
func bytesBody(b []byte) func() (io.Reader, error) {
	return func() (io.Reader, error) { return bytes.NewReader(b), nil }
}

// json does a request whose answer is JSON.
func (c *Client) json(ctx context.Context, r request, out any) error {
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("client: answer of %s %s: %w", r.method, r.path, err)
	}
	return nil
}

func (c *Client) get(ctx context.Context, path string, out any) error {
	return c.json(ctx, request{method: http.MethodGet, path: path, again: true}, out)
}
