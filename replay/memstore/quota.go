package memstore

import (
	"math/bits"
	"sync/atomic"
)

// A quota counts the live keys of every client, in memory that does not grow with the number of clients.
//
// Each client has one counter in each of two rows, at the places that its secret hash says, and shares them with
// others. The lower of the two is never less than the client's own count, so no client gets more than the limit. A
// client is refused below its limit only if it shares both counters with clients that use up theirs; as no one can
// choose its counters, that is an accident: with the defaults less than one in ten million, even when ten clients are
// at their limit.
type quota struct {
	limit uint32
	bits  int // the length of a row is 1 << bits
	rows  [2][]atomic.Uint32
}

// newQuota returns a quota with sixteen counters in a row for each client that can be at the limit at the same time, at
// least 65,536 and at most a million: 512 KiB to 8 MiB in all.
func newQuota(maxEntries, limit int) quota {
	q := quota{limit: uint32(limit), bits: min(max(16, bits.Len(uint(16*(maxEntries/limit)))), 20)}
	for i := range q.rows {
		q.rows[i] = make([]atomic.Uint32, 1<<q.bits)
	}
	return q
}

// add counts one more key of the client. It reports false, and counts nothing, if the client is at the limit.
func (q *quota) add(client uint32) bool {
	a, b := q.counters(client)
	if min(a.Add(1), b.Add(1)) <= q.limit {
		return true
	}
	q.remove(client)
	return false
}

// remove counts one key less.
func (q *quota) remove(client uint32) {
	a, b := q.counters(client)
	a.Add(^uint32(0))
	b.Add(^uint32(0))
}

// counters returns the client's counters: one row goes by the low bits of its hash, the other by the high ones.
func (q *quota) counters(client uint32) (a, b *atomic.Uint32) {
	return &q.rows[0][client&(1<<q.bits-1)], &q.rows[1][client>>(32-q.bits)]
}
