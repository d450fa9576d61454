package process

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/rubato-faas/rubato/sandbox/internal/stage"
)

// output reads what a process prints into a bounded tail. A goroutine reads all the time, so that a process never
// blocks on a full pipe; drain reads what is there now, so that a call's logs are complete when its result is there,
// although result and logs take different ways.
type output struct {
	tail *stage.Tail
	r    *os.File
	raw  syscall.RawConn
	mu   sync.Mutex // held over a read and its append, so that drain never overtakes bytes in flight
	buf  [4096]byte
	done chan struct{}
}

// newOutput makes the pipe; w is for the process.
func newOutput(limit int) (o *output, w *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	raw, err := r.SyscallConn()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("pipe: %w", err), r.Close(), w.Close())
	}
	o = &output{tail: stage.NewTail(limit), r: r, raw: raw, done: make(chan struct{})}
	go o.follow()
	return o, w, nil
}

// follow reads until every holder of the other end is gone or the pipe is closed.
func (o *output) follow() {
	defer close(o.done)
	for end := false; !end; {
		err := o.raw.Read(func(fd uintptr) bool {
			n, err := o.readOnce(fd)
			end = n == 0 && err == nil
			return !errors.Is(err, syscall.EAGAIN)
		})
		if err != nil {
			return
		}
	}
}

// readOnce reads without waiting: os.Pipe's ends are in non-blocking mode.
func (o *output) readOnce(fd uintptr) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := syscall.Read(int(fd), o.buf[:])
	if n > 0 {
		_, _ = o.tail.Write(o.buf[:n]) // a Tail's Write cannot fail
	}
	if errors.Is(err, syscall.EINTR) {
		return 1, nil // as good as a read byte: come again
	}
	return n, err
}

// maxDrain bounds one drain, since a process may print for ever.
const maxDrain = 1 << 20

// drain reads what the process has printed up to now.
func (o *output) drain() {
	// Control fails only on a closed pipe, which has nothing more to say.
	_ = o.raw.Control(func(fd uintptr) {
		for total := 0; total < maxDrain; {
			n, err := o.readOnce(fd)
			if n <= 0 || err != nil {
				return
			}
			total += n
		}
	})
}

// close ends the reading even when a stray child still holds the other end.
func (o *output) close() error {
	err := o.r.Close()
	<-o.done
	return err
}
