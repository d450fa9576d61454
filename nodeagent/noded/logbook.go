package noded

import (
	"sync"

	"github.com/rubato-faas/rubato/api/wire"
)

// Limits of captured output on one node.
const (
	logCallsPerFunction = 64
	logFunctions        = 256
	logAnswerBytes      = 512 << 10
)

// logbook keeps the output of the last calls of each function. Safe for concurrent use.
type logbook struct {
	mu    sync.Mutex
	byFn  map[string][]wire.LogLine
	order []string // functions by first use; the oldest goes when there are too many
}

func newLogbook() *logbook { return &logbook{byFn: map[string][]wire.LogLine{}} }

func (l *logbook) add(fn string, line wire.LogLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines, ok := l.byFn[fn]
	if !ok {
		if len(l.order) >= logFunctions {
			delete(l.byFn, l.order[0])
			l.order = l.order[1:]
		}
		l.order = append(l.order, fn)
	}
	if len(lines) >= logCallsPerFunction {
		lines = append(lines[:0], lines[1:]...)
	}
	l.byFn[fn] = append(lines, line)
}

// last returns the newest n lines in order of time, clipped to what fits an answer.
func (l *logbook) last(fn string, n int) []wire.LogLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.byFn[fn]
	if n > 0 && len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	size, first := 0, len(lines)
	for first > 0 && size+len(lines[first-1].Text) <= logAnswerBytes {
		first--
		size += len(lines[first].Text)
	}
	return append([]wire.LogLine(nil), lines[first:]...)
}
