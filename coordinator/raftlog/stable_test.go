package raftlog

import (
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

func boltAt(t *testing.T, path string) *raftboltdb.BoltStore {
	t.Helper()
	s, err := raftboltdb.NewBoltStore(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// persistVote is what raft does to vote; crash stops it after its first write.
func persistVote(t *testing.T, s raft.StableStore, term uint64, candidate string, crash bool) {
	t.Helper()
	if err := s.SetUint64([]byte(voteTermKey), term); err != nil {
		t.Fatal(err)
	}
	if crash {
		return
	}
	if err := s.Set([]byte(voteCandidateKey), []byte(candidate)); err != nil {
		t.Fatal(err)
	}
}

func vote(t *testing.T, s raft.StableStore) (uint64, string) {
	t.Helper()
	term, err := s.GetUint64([]byte(voteTermKey))
	if err != nil {
		t.Fatal(err)
	}
	candidate, err := s.Get([]byte(voteCandidateKey))
	if err != nil {
		t.Fatal(err)
	}
	return term, string(candidate)
}

// TestCrashBetweenTheWritesOfAVote shows the fault on the plain store and its absence on ours: after the crash, a
// candidate that was voted for in term 5 must not look as if it was voted for in term 6.
func TestCrashBetweenTheWritesOfAVote(t *testing.T) {
	for _, plain := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "raft.db")
		bolt := boltAt(t, path)
		open := func() raft.StableStore {
			if plain {
				return bolt
			}
			return &voteStore{StableStore: bolt}
		}
		s := open()
		persistVote(t, s, 5, "old", false)
		persistVote(t, s, 6, "new", true)
		if err := bolt.Close(); err != nil {
			t.Fatal(err)
		}
		bolt = boltAt(t, path)
		term, candidate := vote(t, open())
		if torn := term == 6 && candidate == "old"; torn != plain {
			t.Errorf("plain store %v: vote of term %d for %q after the crash", plain, term, candidate)
		}
		if err := bolt.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVoteStore(t *testing.T) {
	bolt := boltAt(t, filepath.Join(t.TempDir(), "raft.db"))
	defer bolt.Close()
	s := &voteStore{StableStore: bolt}
	if _, err := s.GetUint64([]byte(voteTermKey)); err == nil || err.Error() != "not found" {
		t.Fatalf("no vote: %v, want the text that raft knows", err)
	}
	if err := s.Set([]byte(voteCandidateKey), []byte("x")); err == nil {
		t.Fatal("a candidate without a term was taken")
	}
	persistVote(t, s, 7, "c", false)
	persistVote(t, s, 8, "d", true)
	if term, c := vote(t, s); term != 7 || c != "c" {
		t.Fatalf("vote %d %q before the second write, want 7 c", term, c)
	}
	persistVote(t, s, 8, "d", false)
	if term, c := vote(t, s); term != 8 || c != "d" {
		t.Fatalf("vote %d %q, want 8 d", term, c)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 9); err != nil {
		t.Fatal(err)
	}
	if v, err := s.GetUint64([]byte("CurrentTerm")); v != 9 || err != nil {
		t.Fatalf("other keys: %d %v", v, err)
	}
}
