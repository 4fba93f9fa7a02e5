package dpop

import (
	"crypto"
	"hash/maphash"
	"sync"
)

// A keyCache remembers the keys of proofs that were accepted, by the text of their jwk. It is here for speed alone: to
// read a JWK, to see that its point is on the curve and to compute its thumbprint takes some 4 % of what the signature
// takes, and a client sends the same text each time. The same text is the same key, so what it holds is never wrong; and
// only who holds a token gets anything into it. What falls out of it is parsed once more.
type keyCache struct {
	seed   maphash.Seed
	shards [16]struct {
		mu   sync.RWMutex
		keys map[string]parsedKey
	}
}

// The most that is kept: some 4 MB, if every client has an RSA key of 4096 bits.
const (
	maxKeysPerShard = 256
	maxCachedJWK    = 1 << 10
)

// A parsedKey is a key that is sound, and fit for alg.
type parsedKey struct {
	alg, jkt string
	public   crypto.PublicKey
}

func newKeyCache() *keyCache {
	c := &keyCache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].keys = make(map[string]parsedKey)
	}
	return c
}

func (c *keyCache) get(alg string, jwk []byte) (parsedKey, bool) {
	s := &c.shards[maphash.Bytes(c.seed, jwk)%uint64(len(c.shards))]
	s.mu.RLock()
	k, ok := s.keys[string(jwk)]
	s.mu.RUnlock()
	return k, ok && k.alg == alg
}

func (c *keyCache) put(jwk []byte, k parsedKey) {
	if len(jwk) > maxCachedJWK {
		return
	}
	s := &c.shards[maphash.Bytes(c.seed, jwk)%uint64(len(c.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) >= maxKeysPerShard {
		for other := range s.keys { // any one: the order of a map is not fixed
			delete(s.keys, other)
			break
		}
	}
	s.keys[string(jwk)] = k
}
