package dpop

import (
	"fmt"
	"strings"
	"testing"
)

// Whoever holds a token can send as many spellings of one key as there are numbers: what is remembered of them is bounded,
// in number and in length.
func TestTheKeyCacheIsBounded(t *testing.T) {
	c := newKeyCache()
	for i := range 20_000 {
		c.put(fmt.Appendf(nil, `{"i":%d}`, i), parsedKey{alg: "ES256"})
	}
	c.put([]byte(strings.Repeat("x", maxCachedJWK+1)), parsedKey{alg: "ES256"})
	total := 0
	for i := range c.shards {
		total += len(c.shards[i].keys)
		if got := len(c.shards[i].keys); got > maxKeysPerShard {
			t.Errorf("a shard holds %d keys, more than %d", got, maxKeysPerShard)
		}
		for jwk := range c.shards[i].keys {
			if len(jwk) > maxCachedJWK {
				t.Errorf("a text of %d bytes is kept", len(jwk))
			}
		}
	}
	if total < len(c.shards)*maxKeysPerShard/2 {
		t.Errorf("of 20000 keys %d are kept: less than there is room for", total)
	}
}

// A text is one key for one algorithm, and for no other text.
func TestTheKeyCacheIsExact(t *testing.T) {
	c := newKeyCache()
	jwk := []byte(`{"kty":"RSA"}`)
	c.put(jwk, parsedKey{alg: "PS256", jkt: "one"})
	jwk[2] = 'K' // the caller's bytes are the caller's
	if k, ok := c.get("PS256", []byte(`{"kty":"RSA"}`)); !ok || k.jkt != "one" {
		t.Errorf("the key is %v, %v", k, ok)
	}
	for alg, text := range map[string]string{"RS256": `{"kty":"RSA"}`, "PS256": `{"Kty":"RSA"}`, "": `{"kty":"RSA"}`} {
		if k, ok := c.get(alg, []byte(text)); ok {
			t.Errorf("%s with %s is taken for %v", text, alg, k)
		}
	}
}
