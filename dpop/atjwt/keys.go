package atjwt

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/internal/jose"
	"github.com/senderbound/senderbound/jkt"
)

const (
	maxKeys       = 100 // of one issuer; what comes after them is not looked at
	maxCandidates = 4   // keys that one token is tried with
	minRSABits    = 2048
	maxRSABits    = 8192
)

// A keySet is what the issuer published at one time. It does not change.
type keySet struct {
	keys []key // those fit to verify tokens

	// kids are the key identifiers of all keys, the unfit ones too: a token that names one of these need not wait for
	// keys to be fetched.
	kids map[string]bool

	// skipped says which keys are unfit, and why.
	skipped []string

	// verified are the tokens that these keys, or some of them, have verified.
	verified *cache
}

type key struct {
	kid    string // "" if it has none
	alg    string // the only algorithm it may be used with, or ""
	print  string // its thumbprint
	public crypto.PublicKey
}

// candidates returns the keys that may have signed a token with this kid and alg, a few at most. known reports whether
// the set has an answer, be it that there are none: without kid, the type of the key and what it is for decide, and
// among keys with one kid as well (RFC 7517 §4.5, FAPI 2.0 §5.6).
func (s *keySet) candidates(kid, alg string) (list []key, known bool) {
	if s == nil {
		return nil, false
	}
	for _, k := range s.keys {
		if (kid == "" || kid == k.kid) && k.fits(alg) && len(list) < maxCandidates {
			list = append(list, k)
		}
	}
	return list, len(list) > 0 || kid != "" && s.kids[kid]
}

func (k key) fits(alg string) bool {
	return (k.alg == "" || k.alg == alg) && jose.Fits(alg, k.public)
}

// contains reports whether s has each key of other, for the same uses.
func (s *keySet) contains(other *keySet) bool {
	for _, k := range other.keys {
		if !slices.ContainsFunc(s.keys, func(have key) bool {
			return have.kid == k.kid && have.alg == k.alg && have.print == k.print
		}) {
			return false
		}
	}
	return true
}

// names returns the set's keys for a log.
func (s *keySet) names() string {
	var names []string
	for _, k := range s.keys {
		names = append(names, quote(k.kid))
	}
	return strings.Join(names, " ")
}

// parseKeySet reads a JWK Set (RFC 7517 §5). A key that is unknown, broken, or not for these algorithms is left out;
// the rest of the set does not suffer for it. A set without any other key is an error.
func parseKeySet(body []byte, algorithms []string) (*keySet, error) {
	var doc struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, errors.New("the key set is not a JSON object with an array of keys")
	}
	set := &keySet{kids: make(map[string]bool)}
	for i, raw := range doc.Keys {
		if i == maxKeys {
			set.skipped = append(set.skipped, fmt.Sprintf("%d more: only the first %d keys are read", len(doc.Keys)-maxKeys, maxKeys))
			break
		}
		k, err := parseKey(raw)
		if k.kid != "" {
			set.kids[k.kid] = true
		}
		if err == nil && !slices.ContainsFunc(algorithms, k.fits) {
			err = errors.New("is not for one of the algorithms allowed")
		}
		if err != nil {
			set.skipped = append(set.skipped, fmt.Sprintf("key %d, kid %s: %v", i, quote(k.kid), err))
			continue
		}
		set.keys = append(set.keys, k)
	}
	if len(set.keys) == 0 {
		return nil, fmt.Errorf("the key set has no key that is fit to verify tokens: %q", set.skipped)
	}
	return set, nil
}

// parseKey reads a JWK that is to verify signatures. If it returns an error, kid is set all the same where there is one.
func parseKey(raw []byte) (k key, err error) {
	parsed, err := jwk.ParseKey(raw)
	if err != nil {
		return key{}, errors.New("cannot be read") // jwx's own text may quote the key
	}
	k.kid = parsed.KeyID()
	if use := parsed.KeyUsage(); use != "" && use != "sig" {
		return k, fmt.Errorf("has use %s", quote(use))
	}
	if ops := parsed.KeyOps(); len(ops) > 0 && !slices.Contains(ops, jwk.KeyOpVerify) {
		return k, errors.New("has key_ops without verify")
	}
	if alg := parsed.Algorithm(); alg != nil {
		k.alg = jose.Canonical(alg.String())
	}
	var public any
	if err := parsed.Raw(&public); err != nil {
		return k, errors.New("is not sound")
	}
	if err := checkPublic(public); err != nil {
		return k, err
	}
	if k.print, err = jkt.Thumbprint(public); err != nil {
		return k, errors.New("is not on a curve known here")
	}
	k.public = public
	return k, nil
}

// checkPublic refuses what is not a public key for signatures, a private key among them: one that is published is
// no longer its owner's.
func checkPublic(public any) error {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		if _, err := public.ECDH(); err != nil {
			return errors.New("is not a point on a curve known here")
		}
	case ed25519.PublicKey:
		if len(public) != ed25519.PublicKeySize {
			return errors.New("has a wrong length")
		}
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("is an RSA key of %d bits, not of %d to %d", bits, minRSABits, maxRSABits)
		}
	default:
		return errors.New("is not a public key for signatures")
	}
	return nil
}

// find returns the keys that may have signed a token, and the set they are from. If that set does not know, it may wait
// for the next fetch; see await. A token without kid is judged by the keys that are there: that a newer key has signed it
// cannot be told from a forgery.
func (k *keyring) find(ctx context.Context, kid, alg string) (*keySet, []key, error) {
	for waits := 0; ; waits++ {
		set := k.current.Load()
		if list, known := set.candidates(kid, alg); len(list) > 0 {
			return set, list, nil
		} else if known {
			return nil, nil, refuse(dpop.ErrTokenSignature, "the issuer's key %s is not for %s", quote(kid), alg)
		}
		done, err := k.await(set, kid, waits)
		if err != nil {
			return nil, nil, err
		}
		select {
		case <-done:
		case <-ctx.Done():
			err = k.unavailable(context.Cause(ctx))
		}
		k.leave()
		if err != nil {
			return nil, nil, err
		}
	}
}
