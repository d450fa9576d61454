package catalog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"github.com/rubato-faas/rubato/api"
)

// A snapshot is: the magic, one byte of version, then records (a length of four bytes, then msgpack): the header
// and what it counts, in the order pools, requests, entries; last the SHA-256 of everything before it.
const (
	snapshotMagic   = "RBTOCTLG"
	snapshotVersion = 1
	oldestSnapshot  = 1
	// maxRecordBytes bounds one record: a function with all its versions, a manifest or the table of shares.
	maxRecordBytes = 512 << 10
)

type snapshotHeader struct {
	Index    uint64 `msgpack:"i"`
	Chain    Hash   `msgpack:"c"`
	Pools    int    `msgpack:"p"`
	Requests int    `msgpack:"q"`
	Entries  int    `msgpack:"e"`
}

// Snapshot is the catalogue at one index, frozen: it shares the entries, which are never changed in place, so
// that taking it is quick and writing it can happen while the catalogue goes on.
type Snapshot struct {
	head     snapshotHeader
	pools    []*Pool
	requests []request
	entries  []*Entry
}

// Snapshot freezes the present state.
func (c *Catalog) Snapshot() *Snapshot {
	s := &Snapshot{pools: c.pools, requests: c.requests.list(), entries: make([]*Entry, 0, len(c.entries))}
	for i, id := range c.log {
		if e := c.entries[id]; e.Rev == c.revs[i] {
			s.entries = append(s.entries, e)
		}
	}
	s.head = snapshotHeader{Index: c.index, Chain: c.chain, Pools: len(s.pools), Requests: len(s.requests), Entries: len(s.entries)}
	return s
}

// WriteTo writes the snapshot in the format that Restore reads.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	sum := sha256.New()
	buf := bufio.NewWriter(w)
	out := &recordWriter{w: io.MultiWriter(buf, sum)}
	out.write(append([]byte(snapshotMagic), snapshotVersion))
	out.record(&s.head)
	for _, p := range s.pools {
		out.record(p)
	}
	for i := range s.requests {
		out.record(&s.requests[i])
	}
	for _, e := range s.entries {
		out.record(e)
	}
	out.write(sum.Sum(nil))
	if out.err == nil {
		out.err = buf.Flush()
	}
	if out.err != nil {
		return out.n, fmt.Errorf("catalog write snapshot: %w", out.err)
	}
	return out.n, nil
}

// recordWriter remembers the first error, so that its user checks once.
type recordWriter struct {
	w   io.Writer
	n   int64
	err error
}

func (w *recordWriter) write(b []byte) {
	if w.err != nil {
		return
	}
	var n int
	n, w.err = w.w.Write(b)
	w.n += int64(n)
}

func (w *recordWriter) record(v any) {
	b, err := marshal(v)
	if err == nil && len(b) > maxRecordBytes {
		err = fmt.Errorf("%w: record of %d bytes: want at most %d", api.ErrTooLarge, len(b), maxRecordBytes)
	}
	if err != nil {
		if w.err == nil {
			w.err = err
		}
		return
	}
	w.write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
	w.write(b)
}

// Restore reads a snapshot into a new catalogue. Whatever is wrong with it, including a single bit, is an error
// and never half a catalogue.
func Restore(r io.Reader) (*Catalog, error) {
	c, err := restore(&recordReader{r: bufio.NewReader(r), sum: sha256.New()})
	if err != nil {
		return nil, fmt.Errorf("catalog restore: %w", err)
	}
	return c, nil
}

func restore(in *recordReader) (*Catalog, error) {
	magic, err := in.read(len(snapshotMagic) + 1)
	if err != nil {
		return nil, err
	}
	if string(magic[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("%w: not a snapshot of a catalogue", api.ErrInvalid)
	}
	if v := magic[len(snapshotMagic)]; v < oldestSnapshot || v > snapshotVersion {
		return nil, fmt.Errorf("%w: version %d: this release reads %d-%d", api.ErrInvalid, v, oldestSnapshot, snapshotVersion)
	}
	var head snapshotHeader
	if err := in.record(&head); err != nil {
		return nil, err
	}
	if head.Pools < 0 || head.Pools > KeepPools || head.Requests < 0 || head.Requests > MaxRequests ||
		head.Entries < 0 || head.Entries > MaxFunctions+MaxTenants+MaxZoneNames+int(numEntryKinds) {
		return nil, fmt.Errorf("%w: counts %d, %d, %d above their limits", api.ErrInvalid, head.Pools, head.Requests, head.Entries)
	}
	c := New()
	c.index, c.chain = head.Index, head.Chain
	if err := c.restoreRecords(in, &head); err != nil {
		return nil, err
	}
	return c, in.trailer()
}

func (c *Catalog) restoreRecords(in *recordReader, head *snapshotHeader) error {
	for range head.Pools {
		p := new(Pool)
		if err := in.record(p); err != nil {
			return err
		}
		c.pools = append(c.pools, p)
	}
	for range head.Requests {
		var q request
		if err := in.record(&q); err != nil {
			return err
		}
		c.requests.add(q)
	}
	for range head.Entries {
		e := new(Entry)
		if err := in.record(e); err != nil {
			return err
		}
		if err := c.admit(e); err != nil {
			return err
		}
	}
	return nil
}

// admit checks an entry's shape before it joins the catalogue: later code relies on it.
func (c *Catalog) admit(e *Entry) error {
	ok := e.Rev > c.Revision() && e.Rev <= c.index && c.entries[e.id()] == nil
	switch e.Kind {
	case FunctionEntry:
		ok = ok && e.Function != nil && e.Deleted == (len(e.Function.Versions) == 0) && len(e.Function.Versions) <= KeepVersions
	case ZoneEntry:
		ok = ok && e.Deleted == (e.Zone == nil)
	case TenantEntry:
		ok = ok && e.Deleted == (e.Tenant == nil)
	case PoolEntry:
		ok = ok && e.Pool != nil && c.Pool() != nil && e.Pool.Version == c.poolVersion()
		if ok {
			e.Pool = c.Pool()
		}
	case SharesEntry, PolicyEntry:
		ok = ok && !e.Deleted
	default:
		ok = false
	}
	if !ok {
		return fmt.Errorf("%w: entry %v %.80q at revision %d is malformed or out of order", api.ErrInvalid, e.Kind, e.Key, e.Rev)
	}
	c.set(e.id(), e)
	return nil
}

type recordReader struct {
	r   io.Reader
	sum hash.Hash
}

func (r *recordReader) read(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, fmt.Errorf("%w: cut short: %w", api.ErrInvalid, err)
	}
	r.sum.Write(b)
	return b, nil
}

func (r *recordReader) record(v any) error {
	size, err := r.read(4)
	if err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size)
	if n > maxRecordBytes {
		return fmt.Errorf("%w: record of %d bytes: want at most %d", api.ErrInvalid, n, maxRecordBytes)
	}
	b, err := r.read(int(n))
	if err != nil {
		return err
	}
	if err := unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	return nil
}

func (r *recordReader) trailer() error {
	want := r.sum.Sum(nil)
	got, err := r.read(sha256.Size)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: checksum does not match", api.ErrInvalid)
	}
	return nil
}
