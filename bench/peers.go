package bench

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"

	"github.com/rubato-faas/rubato/api"
)

//go:embed peers/sklearn_forest.py
var sklearnForest string

// peer is what another learner reached on a stream.
type peer struct {
	MAE  float64 `json:"mae"`
	RMSE float64 `json:"rmse"`
	US   float64 `json:"us"`
}

// pythons are where scikit-learn is looked for: a python3 of the user's own may come before the system's, without it.
var pythons = []string{"python3", "/usr/bin/python3"}

func findSklearn(ctx context.Context) (string, error) {
	for _, p := range pythons {
		if exec.CommandContext(ctx, p, "-c", "import sklearn").Run() == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: --peers needs a python3 with scikit-learn (Debian: apt-get install python3-sklearn)", api.ErrUnavailable)
}

// sklearn runs scikit-learn's forest on a stream.
func sklearn(ctx context.Context, python string, s *stream, seed uint64) (p peer, err error) {
	cmd := exec.CommandContext(ctx, python, "-c", sklearnForest, strconv.FormatUint(seed%(1<<31), 10))
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	in, err := cmd.StdinPipe()
	if err != nil {
		return p, err
	}
	if err := cmd.Start(); err != nil {
		return p, fmt.Errorf("peers: %w", err)
	}
	werr := s.writeCSV(in)
	in.Close()
	if err := cmd.Wait(); err != nil {
		last := bytes.TrimSpace(complaint.Bytes())
		last = last[bytes.LastIndexByte(last, '\n')+1:]
		return p, fmt.Errorf("peers on %s: %w: %s", s.name, err, last)
	}
	if werr != nil {
		return p, werr
	}
	if err := json.Unmarshal(out.Bytes(), &p); err != nil {
		return p, fmt.Errorf("peers on %s: %w", s.name, errors.Join(api.ErrInvalid, err))
	}
	return p, nil
}

// writeCSV writes the stream as its file has it.
func (s *stream) writeCSV(to io.Writer) error {
	w := bufio.NewWriter(to)
	var line []byte
	for i := range s.rows() {
		line = line[:0]
		for _, v := range append(s.row(i)[:s.width:s.width], s.y[i]) {
			line = append(strconv.AppendFloat(line, v, 'g', -1, 64), ',')
		}
		line[len(line)-1] = '\n'
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return w.Flush()
}
