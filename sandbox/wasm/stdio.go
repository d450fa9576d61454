package wasm

import "io"

// stdin gives a guest the payload of the current call, then the end of input. It is handed between the caller and
// the guest's goroutine with the call.
type stdin struct{ rest []byte }

func (s *stdin) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// stdout keeps a guest's result up to limit and remembers that there was more. Its buffer serves call after call.
type stdout struct {
	buf   []byte
	limit int
	over  bool
}

func (s *stdout) Write(p []byte) (int, error) {
	if len(s.buf)+len(p) > s.limit {
		s.over = true
		return len(p), nil
	}
	s.buf = append(s.buf, p...)
	return len(p), nil
}

// keptBuffer is the largest result buffer that a sandbox keeps between calls; a rare huge result should not be
// paid for by every idle sandbox.
const keptBuffer = 256 << 10

func (s *stdout) reset() {
	s.over = false
	if cap(s.buf) > keptBuffer {
		s.buf = nil
	}
	s.buf = s.buf[:0]
}

// take is a copy of the result, since the buffer is used again; nil when nothing was written.
func (s *stdout) take() []byte {
	if len(s.buf) == 0 {
		return nil
	}
	return append(make([]byte, 0, len(s.buf)), s.buf...)
}
