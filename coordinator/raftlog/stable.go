package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/rubato-faas/rubato/api"
)

// The keys under which raft keeps its vote, and the one record that stands for both here.
const (
	voteTermKey      = "LastVoteTerm"
	voteCandidateKey = "LastVoteCand"
	voteKey          = "RubatoVote"
)

// voteStore keeps term and candidate of the last vote as one record.
//
// Raft persists a vote in two writes, first the term, then the candidate. A crash between them leaves the new
// term with the candidate of the *previous* vote. After the restart that old candidate, when it asks in the new
// term, is taken for one that was voted for already ("duplicate request") and is granted the vote without the
// check that its log is up to date: it can win with a log that lacks committed entries. So the first write only
// takes note, and the second writes both. A crash in between leaves the previous vote whole, and since raft
// answers the candidate only after the second write, nobody was told of the new one.
type voteStore struct {
	raft.StableStore

	mu sync.Mutex
	// term is the vote's first half while it waits for the second; 0 (no term that is voted in) when none does.
	term uint64
}

var errHalfVote = errors.New("candidate of a vote without its term")

func (s *voteStore) SetUint64(key []byte, val uint64) error {
	if string(key) != voteTermKey {
		return s.StableStore.SetUint64(key, val)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.term = val
	return nil
}

func (s *voteStore) Set(key, val []byte) error {
	if string(key) != voteCandidateKey {
		return s.StableStore.Set(key, val)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.term == 0 {
		return fmt.Errorf("raftlog set vote: %w", errHalfVote)
	}
	record := binary.BigEndian.AppendUint64(nil, s.term)
	s.term = 0
	return s.StableStore.Set([]byte(voteKey), append(record, val...))
}

// GetUint64 and Get answer from the durable record only: a half that waits was never voted.
func (s *voteStore) GetUint64(key []byte) (uint64, error) {
	if string(key) != voteTermKey {
		return s.StableStore.GetUint64(key)
	}
	term, _, err := s.vote()
	return term, err
}

func (s *voteStore) Get(key []byte) ([]byte, error) {
	if string(key) != voteCandidateKey {
		return s.StableStore.Get(key)
	}
	_, candidate, err := s.vote()
	return candidate, err
}

func (s *voteStore) vote() (uint64, []byte, error) {
	record, err := s.StableStore.Get([]byte(voteKey))
	if err != nil {
		return 0, nil, err // "not found" passes through as it is: raft compares the text
	}
	if len(record) < 8 {
		return 0, nil, fmt.Errorf("raftlog get vote: %w: record of %d bytes", api.ErrInvalid, len(record))
	}
	return binary.BigEndian.Uint64(record), record[8:], nil
}
