package dpop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/senderbound/senderbound/internal/jose"
	"github.com/senderbound/senderbound/internal/tokencache"
)

// ByIssuer returns a resolver for the tokens of several issuers, such as the realms of a Keycloak. A JWT goes to the
// resolver of the issuer that its claim iss names, and what that returns must be of this issuer. A JWT of an unknown issuer is
// refused ([ErrTokenIssuer]) and never handed to another resolver: whoever answers for the tokens of others could make them.
// An encrypted one names no issuer that could be read here, and is refused. Tokens that are no JWT go to opaque, or are
// refused ([ErrTokenMalformed]) if that is nil; of which issuer they are, opaque must see to.
//
// What the token says of its issuer serves to choose; the resolver that is chosen verifies it. The resolver that is returned
// is a [CachedResolver] of what those that are chosen know. The error names every mistake.
func ByIssuer(resolvers map[string]TokenResolver, opaque TokenResolver) (TokenResolver, error) {
	var errs []error
	if len(resolvers) == 0 {
		errs = append(errs, errors.New("dpop: ByIssuer has no issuer: name at least one"))
	}
	r := &byIssuer{issuers: make(map[string]*route), chosen: tokencache.New[*route](maxRoutes)}
	for _, issuer := range slices.Sorted(maps.Keys(resolvers)) {
		if issuer == "" || resolvers[issuer] == nil {
			errs = append(errs, fmt.Errorf("dpop: ByIssuer has the issuer %q: give it a name and a resolver", issuer))
			continue
		}
		r.issuers[issuer] = newRoute(issuer, resolvers[issuer])
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if opaque != nil {
		r.opaque = newRoute("", opaque)
	}
	return r, nil
}

type byIssuer struct {
	issuers map[string]*route
	opaque  *route // or nil

	// chosen holds the routes of tokens that were accepted. The caches below do not say whether a token that they know would
	// be sent to them from here: others may use them, too.
	chosen *tokencache.Cache[*route]
}

const (
	maxRoutes = 10_000
	routeLife = time.Hour // of what never changes; no more than a use for memory that would else be idle
)

// A route leads to a resolver.
type route struct {
	issuer   string // what tokens must be of, or "" for any
	resolver TokenResolver
	cached   func(sum [32]byte) (*Token, bool) // its own, or nil
}

func newRoute(issuer string, resolver TokenResolver) *route {
	to := &route{issuer: issuer, resolver: resolver}
	if cached, own := findCache(resolver); own {
		to.cached = cached
	}
	return to
}

// ResolveToken implements TokenResolver.
func (r *byIssuer) ResolveToken(ctx context.Context, token string) (*Token, error) {
	to, err := r.choose(token)
	if err != nil {
		return nil, err
	}
	t, err := to.resolver.ResolveToken(ctx, token)
	if err != nil || t == nil {
		return nil, err
	}
	if !to.takes(t) {
		return nil, fmt.Errorf("%w: its iss is %.100q, and the issuer that its resolver returns is not", ErrTokenIssuer, to.issuer)
	}
	if to.cached != nil {
		now := time.Now()
		r.chosen.Put(sha256.Sum256([]byte(token)), to, now.Add(routeLife), now)
	}
	return t, nil
}

// choose returns the route of a token that nobody has verified.
func (r *byIssuer) choose(token string) (*route, error) {
	if !isJWT(token) {
		if r.opaque == nil {
			return nil, fmt.Errorf("%w: it is not a JWT", ErrTokenMalformed)
		}
		return r.opaque, nil
	}
	issuer, err := claimedIssuer(token)
	if err != nil {
		return nil, err
	}
	to, ok := r.issuers[issuer]
	if !ok {
		return nil, fmt.Errorf("%w: its iss is %.100q, which is not an issuer of this resource", ErrTokenIssuer, issuer)
	}
	return to, nil
}

func (to *route) takes(t *Token) bool { return to.issuer == "" || t.Issuer == to.issuer }

// Cached implements CachedResolver.
func (r *byIssuer) Cached(sum [32]byte) (*Token, bool) {
	to, ok := r.chosen.Get(sum, time.Now())
	if !ok {
		return nil, false
	}
	t, ok := to.cached(sum)
	if !ok || t == nil || !to.takes(t) {
		return nil, false
	}
	return t, true
}

// isJWT reports whether a token could be read as a JWT, signed or encrypted (RFC 7519 §7.2): three segments or more, and the
// first is base64 of an object. It is generous, since what is no JWT here goes to a server that may be, too.
func isJWT(token string) bool {
	header, rest, _ := strings.Cut(token, ".")
	if !strings.Contains(rest, ".") {
		return false
	}
	// What comes before an error counts. The rest of the alphabet of RFC 4648 §4 is mapped to that of §5.
	text, _ := base64.RawURLEncoding.DecodeString(otherBase64.Replace(header))
	const space = " \t\r\n\ufeff"
	object, ok := bytes.CutPrefix(bytes.TrimLeft(text, space), []byte("{"))
	object = bytes.TrimLeft(object, space)
	return ok && len(object) > 0 && (object[0] == '"' || object[0] == '}')
}

var otherBase64 = strings.NewReplacer("+", "-", "/", "_", "=", "", " ", "", "\t", "")

// claimedIssuer returns the claim iss of a JWT that nobody has verified.
func claimedIssuer(token string) (string, error) {
	c, err := jose.ParseCompact(token)
	if err != nil {
		return "", fmt.Errorf("%w: it %w", ErrTokenMalformed, err)
	}
	var m [1][]byte
	if err := jose.Scan(c.Payload, []string{"iss"}, m[:]); err != nil {
		return "", fmt.Errorf("%w: its payload %w", ErrTokenMalformed, err)
	}
	iss, err := jose.Text(m[0])
	if err != nil {
		return "", fmt.Errorf("%w: it has no iss that is a string", ErrTokenIssuer)
	}
	return string(iss), nil
}

// Recheck returns a resolver that asks local first, and authority about those tokens that local accepts: where a token that
// was revoked must be refused before it expires (FAPI 2.0 Security Profile §5.3.4), and forgeries should not reach the
// authorization server. local is such as dpop/atjwt, authority such as introspect.
//
// A token passes if both accept it, and agree on what it is bound to and, if authority names one, on its issuer; the result
// is local's. If authority cannot tell, neither does the resolver.
func Recheck(local, authority TokenResolver) (TokenResolver, error) {
	if local == nil || authority == nil {
		return nil, errors.New("dpop: Recheck needs both resolvers: give the one that validates tokens and the one that knows what is revoked")
	}
	return &recheck{local, authority}, nil
}

type recheck struct{ local, authority TokenResolver }

// ResolveToken implements TokenResolver.
func (r *recheck) ResolveToken(ctx context.Context, token string) (*Token, error) {
	t, err := r.local.ResolveToken(ctx, token)
	if err != nil || t == nil {
		return nil, err
	}
	active, err := r.authority.ResolveToken(ctx, token)
	switch {
	case err != nil || active == nil:
		return nil, err
	case active.Confirmation != t.Confirmation:
		return nil, fmt.Errorf("%w: the authorization server says that it is bound otherwise than the token itself does", ErrTokenInvalid)
	case active.Issuer != "" && active.Issuer != t.Issuer:
		return nil, fmt.Errorf("%w: the authorization server says that it is of another issuer than %.100q", ErrTokenIssuer, t.Issuer)
	}
	return t, nil
}

// Unwrap lets Verify refuse early with what local knows. What it knows is not the last word.
func (r *recheck) Unwrap() TokenResolver { return r.local }
