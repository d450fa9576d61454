package noded

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/rubato-faas/rubato/api"
	"github.com/rubato-faas/rubato/internal/durable"
)

const (
	epochFile = "epoch.json"
	// epochVersion is written and read; there was none before it.
	epochVersion = 1
)

// epochRecord is the file's content.
type epochRecord struct {
	Version int       `json:"version"`
	Epoch   api.Epoch `json:"epoch"`
}

// loadEpoch reads the highest epoch that this node has obeyed; a missing file is a new node.
func loadEpoch(path string) (api.Epoch, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return api.Epoch{}, nil
	}
	if err != nil {
		return api.Epoch{}, fmt.Errorf("noded read epoch: %w", err)
	}
	e, err := parseEpoch(b)
	if err != nil {
		return e, fmt.Errorf("noded read epoch %s: %w: %w (remove the file only if no older leader can still be alive)", path, api.ErrInvalid, err)
	}
	return e, nil
}

func parseEpoch(b []byte) (api.Epoch, error) {
	var r epochRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return api.Epoch{}, err
	}
	if r.Version != epochVersion {
		return api.Epoch{}, fmt.Errorf("version %d, this program reads %d", r.Version, epochVersion)
	}
	return r.Epoch, nil
}

// saveEpoch writes and syncs the epoch before anything is done under it: file, then rename, then folder.
func saveEpoch(path string, e api.Epoch) error {
	b, err := json.Marshal(epochRecord{Version: epochVersion, Epoch: e})
	if err != nil {
		return err
	}
	return durable.Write(path, b)
}
