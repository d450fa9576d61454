package noded

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rubato-faas/rubato/api"
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
	f, err := os.CreateTemp(filepath.Dir(path), ".epoch-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
