package dpop_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/introspect"
)

const (
	realmA = "https://id.example.com/realms/a"
	realmB = "https://id.example.com/realms/b"
)

// A realm is a resolver that takes any token as one of an issuer's, and remembers the tokens that it took as an honest
// cache does. It counts its calls.
type realm struct {
	issuer string
	calls  int
	known  map[[32]byte]*dpop.Token
	err    error
	cnf    dpop.Confirmation
}

func newRealm(issuer string) *realm { return &realm{issuer: issuer, known: map[[32]byte]*dpop.Token{}} }

func (r *realm) ResolveToken(_ context.Context, token string) (*dpop.Token, error) {
	r.calls++
	if r.err != nil {
		return nil, r.err
	}
	t := &dpop.Token{Issuer: r.issuer, Confirmation: r.cnf}
	r.known[sha256.Sum256([]byte(token))] = t
	return t, nil
}

func (r *realm) Cached(sum [32]byte) (*dpop.Token, bool) {
	t, ok := r.known[sum]
	return t, ok
}

// jwtOf returns a JWT with this payload that nobody signed.
func jwtOf(payload string) string {
	return b64([]byte(`{"alg":"ES256","typ":"at+jwt"}`)) + "." + b64([]byte(payload)) + "." + b64(make([]byte, 64))
}

func jwtBy(issuer string) string { return jwtOf(fmt.Sprintf(`{"iss":%q}`, issuer)) }

func TestByIssuerRefuses(t *testing.T) {
	good := newRealm(realmA)
	for name, tt := range map[string]struct {
		resolvers map[string]dpop.TokenResolver
		want      []string
	}{
		"nothing":            {nil, []string{"ByIssuer has no issuer: name at least one"}},
		"no name":            {map[string]dpop.TokenResolver{"": good}, []string{`the issuer "": give it a name and a resolver`}},
		"no resolver":        {map[string]dpop.TokenResolver{realmA: nil}, []string{`realms/a": give it a name and a resolver`}},
		"all mistakes":       {map[string]dpop.TokenResolver{realmA: nil, realmB: nil, "": good}, []string{`the issuer ""`, `realms/a"`, `realms/b"`}},
		"a mistake and none": {map[string]dpop.TokenResolver{realmA: good, realmB: nil}, []string{`realms/b"`}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := dpop.ByIssuer(tt.resolvers, good)
			if r != nil || err == nil {
				t.Fatalf("got a resolver, and the error %v", err)
			}
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// byDefault is what ByIssuer is not: it hands what it does not know to a resolver that happens to be there.
type byDefault struct {
	resolvers map[string]*realm
	other     *realm
}

func (r byDefault) ResolveToken(ctx context.Context, token string) (*dpop.Token, error) {
	for issuer, resolver := range r.resolvers {
		if parts := strings.Split(token, "."); len(parts) == 3 {
			payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
			if strings.Contains(string(payload), fmt.Sprintf(`"iss":%q`, issuer)) {
				return resolver.ResolveToken(ctx, token)
			}
		}
	}
	return r.other.ResolveToken(ctx, token)
}

// D24: who answers for a token is chosen by what it says of its issuer, and by nothing else. What is a JWT in anyone's eyes is
// never asked about as if it were none.
func TestD24WhoIsAsked(t *testing.T) {
	header := b64([]byte(`{"alg":"ES256"}`))
	payload := b64([]byte(fmt.Sprintf(`{"iss":%q}`, realmA)))
	const a, b, opaque, nobody = "a", "b", "opaque", ""
	malformed, wrongIssuer := dpop.ErrTokenMalformed, dpop.ErrTokenIssuer
	for name, tt := range map[string]struct {
		token  string
		asked  string
		reason dpop.Reason
	}{
		"of A":                            {jwtBy(realmA), a, ""},
		"of B":                            {jwtBy(realmB), b, ""},
		"of A, escaped":                   {jwtOf(strings.Replace(fmt.Sprintf(`{"iss":%q}`, realmA), "/realms", `\/realms`, 1)), a, ""},
		"no signature":                    {header + "." + payload + ".", a, ""}, // A will see to that
		"D24 of another":                  {jwtBy("https://evil.example.com"), nobody, wrongIssuer},
		"D24 of A and more":               {jwtBy(realmA + "/"), nobody, wrongIssuer},
		"D24 of A in another case":        {jwtBy(strings.ToUpper(realmA)), nobody, wrongIssuer},
		"D24 iss empty":                   {jwtBy(""), nobody, wrongIssuer},
		"D24 iss missing":                 {jwtOf(`{}`), nobody, wrongIssuer},
		"D24 iss null":                    {jwtOf(`{"iss":null}`), nobody, wrongIssuer},
		"D24 iss a number":                {jwtOf(`{"iss":7}`), nobody, wrongIssuer},
		"D24 iss a list":                  {jwtOf(fmt.Sprintf(`{"iss":[%q]}`, realmA)), nobody, wrongIssuer},
		"D24 iss an object":               {jwtOf(fmt.Sprintf(`{"iss":{"iss":%q}}`, realmA)), nobody, wrongIssuer},
		"D24 iss in capitals":             {jwtOf(fmt.Sprintf(`{"ISS":%q}`, realmA)), nobody, wrongIssuer},
		"D24 iss of A and of B":           {jwtOf(fmt.Sprintf(`{"iss":%q,"iss":%q}`, realmA, realmB)), nobody, malformed},
		"D24 iss and ISS":                 {jwtOf(fmt.Sprintf(`{"iss":%q,"ISS":%q}`, realmA, realmB)), nobody, malformed},
		"D24 e30.e30.":                    {"e30.e30.", nobody, wrongIssuer},
		"D24 a payload that is no JSON":   {header + "." + b64([]byte("x")) + ".", nobody, malformed},
		"D24 a payload that is no base64": {header + ".!!.", nobody, malformed},
		"D24 encrypted, 5 segments":       {header + ".AAAA.AAAA.AAAA.AAAA", nobody, malformed},
		"D24 four segments":               {header + "." + payload + ".AAAA.AAAA", nobody, malformed},
		"D24 header with padding":         {base64.URLEncoding.EncodeToString([]byte(`{"alg":"ES2567"}`)) + "." + payload + ".AAAA", nobody, malformed},
		"D24 header in standard base64":   {base64.RawStdEncoding.EncodeToString([]byte(`{"a":"???>>>~~~"}`)) + "." + payload + ".AAAA", nobody, malformed},
		"D24 header with other last bits": {b64([]byte(`{"alg":"ES25"}`))[:18] + "R." + payload + ".AAAA", nobody, malformed},
		"D24 header with a line break":    {header[:8] + "\n" + header[8:] + "." + payload + ".AAAA", nobody, malformed},
		"D24 header after a space":        {" " + header + "." + payload + ".AAAA", nobody, malformed},
		"D24 spaces in the header":        {b64([]byte(` {"alg":"ES256"}`)) + "." + payload + ".AAAA", nobody, malformed},
		"D24 a byte order mark":           {b64([]byte("\ufeff{\"alg\":\"ES256\"}")) + "." + payload + ".AAAA", nobody, malformed},
		"D24 header with garbage behind":  {header + "~." + payload + ".AAAA", nobody, malformed},
		"a JWT in a JWT's place":          {b64([]byte(header+"."+payload+".AAAA")) + "." + payload + ".AAAA", opaque, ""}, // its header is no object
		"opaque":                          {token, opaque, ""},
		"opaque, without dots":            {"Kz8mXK1EalYznwHLC1fBAo", opaque, ""},
		"opaque, two random parts":        {"e3" + strings.Repeat("A", 41) + "." + strings.Repeat("B", 43), opaque, ""}, // begins with { by chance
		"opaque, like half a JWT":         {header + "." + payload, opaque, ""},
		"opaque, three random parts":      {"e3" + strings.Repeat("A", 41) + ".AAAA.AAAA", opaque, ""},
		"PASETO":                          {"v4.public.AAAA", opaque, ""},
		"empty":                           {"", opaque, ""},
		"dots":                            {"..", opaque, ""},
	} {
		t.Run(name, func(t *testing.T) {
			realms := map[string]*realm{a: newRealm(realmA), b: newRealm(realmB), opaque: newRealm("opaque's own")}
			r, err := dpop.ByIssuer(map[string]dpop.TokenResolver{realmA: realms[a], realmB: realms[b]}, realms[opaque])
			require.NoError(t, err)
			got, err := r.ResolveToken(t.Context(), tt.token)
			if (got == nil) == (err == nil) || tt.reason == "" && err != nil || tt.reason != "" && !errors.Is(err, tt.reason) {
				t.Errorf("%v, and the error %v: want reason %q", got, err, tt.reason)
			}
			for name, realm := range realms {
				if want := map[bool]int{true: 1}[name == tt.asked]; realm.calls != want {
					t.Errorf("D24: %s was asked %d times, want %d", name, realm.calls, want)
				}
			}
			if tt.asked == nobody { // the control: with a default, someone answers for it
				other := newRealm("opaque's own")
				control := byDefault{map[string]*realm{realmA: newRealm(realmA), realmB: newRealm(realmB)}, other}
				if _, err := control.ResolveToken(t.Context(), tt.token); err != nil {
					t.Errorf("the control: refused, too: %v", err)
				}
			}
			if tt.asked == opaque {
				strict, err := dpop.ByIssuer(map[string]dpop.TokenResolver{realmA: realms[a]}, nil)
				require.NoError(t, err)
				_, err = strict.ResolveToken(t.Context(), tt.token)
				require.ErrorIs(t, err, dpop.ErrTokenMalformed)
			}
		})
	}
}

// D24: a resolver answers for its own issuer only. One that says another, or none, is not believed; what that was is not said,
// since it may come from a server.
func TestD24AResolverSaysAnother(t *testing.T) {
	for _, says := range []string{realmB, "", "the-canary"} {
		inner := newRealm(says)
		r, err := dpop.ByIssuer(map[string]dpop.TokenResolver{realmA: inner, realmB: newRealm(realmB)}, nil)
		require.NoError(t, err)
		for range 2 { // the second time, the cache below knows it
			got, err := r.ResolveToken(t.Context(), jwtBy(realmA))
			if got != nil || !errors.Is(err, dpop.ErrTokenIssuer) || strings.Contains(err.Error(), "canary") {
				t.Errorf("D24: %q: got %v and the error %v", says, got, err)
			}
			if _, ok := r.(dpop.CachedResolver).Cached(sha256.Sum256([]byte(jwtBy(realmA)))); ok {
				t.Errorf("D24: %q: what was refused is known", says)
			}
		}
		require.Equal(t, 2, inner.calls, "the control: it was asked, and said so")
	}
}

// What resolvers say is passed on: a refusal as one, an outage as one, and nothing at all as nothing.
func TestByIssuerPassesOn(t *testing.T) {
	down := errors.New("down")
	nothing := dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) { return nil, nil })
	for name, tt := range map[string]struct {
		resolver dpop.TokenResolver
		want     error
	}{
		"refused": {&realm{err: dpop.ErrTokenExpired}, dpop.ErrTokenExpired}, "down": {&realm{err: down}, down}, "nothing": {nothing, nil},
	} {
		for kind, token := range map[string]string{"JWT": jwtBy(realmA), "opaque": token} {
			r, err := dpop.ByIssuer(map[string]dpop.TokenResolver{realmA: tt.resolver}, tt.resolver)
			require.NoError(t, err)
			got, err := r.ResolveToken(t.Context(), token)
			if got != nil || !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) {
				t.Errorf("%s, %s: got %v and the error %v, want %v", name, kind, got, err, tt.want)
			}
		}
	}
}

// What was accepted here is known as long as the cache below knows it; what the cache knows from elsewhere is not, because
// here it might be refused.
func TestByIssuerCached(t *testing.T) {
	a, opaque := newRealm(realmA), newRealm("opaque's own")
	blind := &wrapper{inner: newRealm(realmB)} // its own word is final, and it says nothing without I/O
	resolvers := map[string]dpop.TokenResolver{realmA: a, realmB: blind}
	resolver, err := dpop.ByIssuer(resolvers, opaque)
	require.NoError(t, err)
	r := resolver.(dpop.CachedResolver)
	clear(resolvers) // which is the caller's
	known := func(token string) bool {
		got, ok := r.Cached(sha256.Sum256([]byte(token)))
		if (got != nil) != ok {
			t.Errorf("Cached returns %v, %v", got, ok)
		}
		return ok
	}
	for name, tt := range map[string]struct {
		token string
		known bool
	}{
		"of A": {jwtBy(realmA), true}, "of B, whose resolver has no cache of its own": {jwtBy(realmB), false}, "opaque": {token, true},
	} {
		require.False(t, known(tt.token), name)
		_, err := r.ResolveToken(t.Context(), tt.token)
		require.NoError(t, err, name)
		if known(tt.token) != tt.known {
			t.Errorf("%s: known is %v, want %v", name, !tt.known, tt.known)
		}
	}
	a.known[sha256.Sum256([]byte(jwtBy(realmA)))] = &dpop.Token{Issuer: realmB}
	if known(jwtBy(realmA)) {
		t.Error("D24: the cache below has come to another issuer, and is believed")
	}
	clear(a.known)
	if known(jwtBy(realmA)) {
		t.Error("the cache below has forgotten a token, and it is still known")
	}

	for name, foreign := range map[string]string{
		"an opaque token that A knows":    "another-opaque-token",
		"D24 a JWT of another, A knows":   jwtBy("https://evil.example.com"),
		"a JWT of A that opaque's knows":  jwtOf(fmt.Sprintf(`{"iss":%q,"jti":"2"}`, realmA)),
		"D24 a JWT of another, and so on": jwtBy("https://evil2.example.com"),
	} {
		for _, elsewhere := range []*realm{a, opaque} {
			_, err := elsewhere.ResolveToken(t.Context(), foreign)
			require.NoError(t, err)
			_, ok := elsewhere.Cached(sha256.Sum256([]byte(foreign)))
			require.True(t, ok, "the control: the cache below knows it")
		}
		if known(foreign) {
			t.Errorf("D24: %s: it is known here, where nobody has resolved it", name)
		}
	}
}

// With several issuers, too, a known token's binding comes before the signature, and a revoked one is not known.
func TestByIssuerInAVerifier(t *testing.T) {
	w := newWorld(t)
	a := newRealm(realmA)
	a.cnf = dpop.Confirmation{JKT: w.key.JKT()}
	r, err := dpop.ByIssuer(map[string]dpop.TokenResolver{realmA: a}, nil)
	require.NoError(t, err)
	w.verifier = w.newVerifier(func(c *dpop.Config) { c.Resolver = r })
	ask := func(key *dpopclient.Key, token string, change func(string) string) *dpop.Error {
		proof := dpoptest.Forge(key, dpopclient.Claims{Method: "GET", URI: target, AccessToken: token}, func(_, c map[string]any) { c["iat"] = w.now.Unix() })
		return w.verify(dpop.Request{Method: "GET", URI: target, Authorization: []string{"DPoP " + token}, DPoP: []string{change(proof)}})
	}
	same := func(proof string) string { return proof }
	wantReason(t, ask(thief(), jwtBy(realmA), badSignature), dpop.ErrProofSignature) // not known yet
	wantReason(t, ask(w.key, jwtBy(realmA), same), "")
	wantReason(t, ask(thief(), jwtBy(realmA), badSignature), dpop.ErrKeyMismatch)
	wantReason(t, ask(w.key, jwtBy(realmA), same), "")
	if a.calls != 1 {
		t.Errorf("the resolver was asked %d times, want once", a.calls)
	}
	clear(a.known)
	a.err = dpop.ErrTokenInvalid
	wantReason(t, ask(w.key, jwtBy(realmA), same), dpop.ErrTokenInvalid)
	wantReason(t, ask(w.key, jwtBy("https://evil.example.com"), same), dpop.ErrTokenIssuer)
}

// D24: real issuers, real tokens: each realm's tokens pass by that realm's keys and for its own audience, and what one realm
// signs in another's name does not.
func TestD24RealIssuers(t *testing.T) {
	issuers, resolvers := map[string]*dpoptest.Issuer{}, map[string]dpop.TokenResolver{}
	for _, name := range []string{"a", "b"} {
		issuer := dpoptest.NewIssuer()
		defer issuer.Close()
		resolver, err := atjwt.NewResolver(t.Context(), atjwt.Config{Issuer: issuer.URL, Audience: "api-" + name, MinRefreshInterval: 50 * time.Millisecond})
		require.NoError(t, err)
		issuers[name], resolvers[issuer.URL] = issuer, resolver
	}
	evil := dpoptest.NewIssuer()
	defer evil.Close()
	r, err := dpop.ByIssuer(resolvers, nil)
	require.NoError(t, err)
	for name, tt := range map[string]struct {
		token string
		want  dpop.Reason
	}{
		"of A":                       {issuers["a"].Token("api-a", aJKT, nil), ""},
		"of B":                       {issuers["b"].Token("api-b", aJKT, nil), ""},
		"D24 of A, for B's audience": {issuers["a"].Token("api-b", aJKT, nil), dpop.ErrTokenAudience},
		"D24 by B in A's name":       {issuers["b"].Token("api-a", aJKT, map[string]any{"iss": issuers["a"].URL}), dpop.ErrTokenSignature},
		"D24 by another in A's name": {evil.Token("api-a", aJKT, map[string]any{"iss": issuers["a"].URL}), dpop.ErrTokenSignature},
		"D24 of another":             {evil.Token("api-a", aJKT, nil), dpop.ErrTokenIssuer},
	} {
		for range 2 {
			got, err := r.ResolveToken(t.Context(), tt.token)
			if tt.want == "" {
				require.NoError(t, err, name)
				require.Equal(t, aJKT, got.Confirmation.JKT)
			} else if got != nil || !errors.Is(err, tt.want) {
				t.Errorf("D24 %s: %v and the error %v, want reason %q", name, got, err, tt.want)
			}
		}
	}
}

func TestRecheckRefuses(t *testing.T) {
	for name, resolvers := range map[string][2]dpop.TokenResolver{
		"no local": {nil, newRealm("")}, "no authority": {newRealm(""), nil}, "nothing": {},
	} {
		if r, err := dpop.Recheck(resolvers[0], resolvers[1]); r != nil || err == nil || !strings.Contains(err.Error(), "needs both") {
			t.Errorf("%s: got %v and the error %v", name, r, err)
		}
	}
}

// R171: a token passes if both accept it and mean the same. What local refuses does not reach the authority, and when the
// authority cannot tell, neither can we.
func TestR171Recheck(t *testing.T) {
	down := errors.New("down")
	bound := dpop.Confirmation{JKT: aJKT}
	nothing := dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) { return nil, nil })
	yes := func(issuer string, cnf dpop.Confirmation) *realm { r := newRealm(issuer); r.cnf = cnf; return r }
	no := func(err error) *realm { return &realm{err: err} }
	for name, tt := range map[string]struct {
		local, authority dpop.TokenResolver
		want             error // nil with ok false: neither a token nor an error
		ok               bool
		asked            int // the authority
	}{
		"both":                              {yes(realmA, bound), yes(realmA, bound), nil, true, 1},
		"both, the authority names nobody":  {yes(realmA, bound), yes("", bound), nil, true, 1},
		"R171 revoked":                      {yes(realmA, bound), no(dpop.ErrTokenInvalid), dpop.ErrTokenInvalid, false, 1},
		"R171 expired at the authority":     {yes(realmA, bound), no(dpop.ErrTokenExpired), dpop.ErrTokenExpired, false, 1},
		"the authority is down":             {yes(realmA, bound), no(down), down, false, 1},
		"the authority says nothing":        {yes(realmA, bound), nothing, nil, false, 0},
		"a forgery":                         {no(dpop.ErrTokenSignature), yes(realmA, bound), dpop.ErrTokenSignature, false, 0},
		"local is down":                     {no(down), yes(realmA, bound), down, false, 0},
		"local says nothing":                {nothing, yes(realmA, bound), nil, false, 0},
		"bound to another key":              {yes(realmA, bound), yes(realmA, dpop.Confirmation{JKT: aX5T}), dpop.ErrTokenInvalid, false, 1},
		"bound to more":                     {yes(realmA, bound), yes(realmA, dpop.Confirmation{JKT: aJKT, X5T: aX5T}), dpop.ErrTokenInvalid, false, 1},
		"unbound here":                      {yes(realmA, dpop.Confirmation{}), yes(realmA, bound), dpop.ErrTokenInvalid, false, 1},
		"unbound there":                     {yes(realmA, bound), yes(realmA, dpop.Confirmation{}), dpop.ErrTokenInvalid, false, 1},
		"unknown there":                     {yes(realmA, bound), yes(realmA, dpop.Confirmation{Unknown: true}), dpop.ErrTokenInvalid, false, 1},
		"D24 an authority of another's":     {yes(realmA, bound), yes(realmB, bound), dpop.ErrTokenIssuer, false, 1},
		"D24 the authority repeats a token": {yes(realmA, bound), yes("the-canary", bound), dpop.ErrTokenIssuer, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := dpop.Recheck(tt.local, tt.authority)
			require.NoError(t, err)
			got, err := r.ResolveToken(t.Context(), jwtBy(realmA))
			if (got != nil) != tt.ok || !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) || strings.Contains(fmt.Sprint(err), "canary") {
				t.Errorf("R171: %v and the error %v, want %v", got, err, tt.want)
			}
			if tt.ok && got != tt.local.(*realm).known[sha256.Sum256([]byte(jwtBy(realmA)))] {
				t.Error("the result is not local's")
			}
			if realm, ok := tt.authority.(*realm); ok && realm.calls != tt.asked {
				t.Errorf("the authority was asked %d times, want %d", realm.calls, tt.asked)
			}
		})
	}
}

// R171: what local knows never stands in for the authority; it only lets Verify refuse a wrong key early. That holds behind
// ByIssuer, too.
func TestR171RecheckInAVerifier(t *testing.T) {
	for name, around := range map[string]func(dpop.TokenResolver) (dpop.TokenResolver, error){
		"by itself": func(r dpop.TokenResolver) (dpop.TokenResolver, error) { return r, nil },
		"behind a realm": func(r dpop.TokenResolver) (dpop.TokenResolver, error) {
			return dpop.ByIssuer(map[string]dpop.TokenResolver{realmA: r}, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			local, authority := newRealm(realmA), newRealm(realmA)
			local.cnf = dpop.Confirmation{JKT: w.key.JKT()}
			authority.cnf = local.cnf
			both, err := dpop.Recheck(local, authority)
			require.NoError(t, err)
			if _, ok := both.(dpop.CachedResolver); ok {
				t.Error("R171: Recheck claims to know tokens without asking")
			}
			both, err = around(both)
			require.NoError(t, err)
			w.verifier = w.newVerifier(func(c *dpop.Config) { c.Resolver = both })

			for n := range 3 {
				wantReason(t, w.verify(request(w.proof())), "")
				if authority.calls != n+1 {
					t.Errorf("R171: the authority was asked %d times about %d requests", authority.calls, n+1)
				}
			}
			authority.err = dpop.ErrTokenInvalid
			wantReason(t, w.verify(request(w.proof())), dpop.ErrTokenInvalid)

			calls := authority.calls
			want := dpop.ErrKeyMismatch
			if name != "by itself" {
				want = dpop.ErrProofSignature // behind a realm, nothing is known early
			}
			wantReason(t, w.verify(request(badSignature(w.forge(thief())))), want)
			if authority.calls != calls {
				t.Error("the authority was asked although the proof is bad")
			}
		})
	}
	t.Run("the control", func(t *testing.T) { // a resolver that embeds the one below has its cache for its own
		w := newWorld(t)
		local, authority := newRealm(realmA), newRealm(realmA)
		local.cnf = dpop.Confirmation{JKT: w.key.JKT()}
		naive := embedding{local, authority}
		w.verifier = w.newVerifier(func(c *dpop.Config) { c.Resolver = naive })
		wantReason(t, w.verify(request(w.proof())), "")
		authority.err = dpop.ErrTokenInvalid
		wantReason(t, w.verify(request(w.proof())), "") // which is wrong
	})
}

type embedding struct {
	*realm
	authority *realm
}

func (e embedding) ResolveToken(ctx context.Context, token string) (*dpop.Token, error) {
	t, err := e.realm.ResolveToken(ctx, token)
	if err == nil {
		_, err = e.authority.ResolveToken(ctx, token)
	}
	return t, err
}

// What is returned does not make a resolver around it a CachedResolver by embedding.
func TestByIssuerCanBeEmbedded(t *testing.T) {
	r, err := dpop.ByIssuer(map[string]dpop.TokenResolver{realmA: newRealm(realmA)}, nil)
	require.NoError(t, err)
	if _, ok := any(struct{ dpop.TokenResolver }{r}).(dpop.CachedResolver); ok {
		t.Error("it has a Cached of its own")
	}
}

func BenchmarkByIssuer(b *testing.B) {
	resolvers := map[string]dpop.TokenResolver{}
	for n := range 20 {
		issuer := fmt.Sprint("https://id.example.com/realms/", n)
		resolvers[issuer] = newRealm(issuer)
	}
	r, err := dpop.ByIssuer(resolvers, nil)
	require.NoError(b, err)
	token := jwtOf(`{"iss":"https://id.example.com/realms/7","x":"` + strings.Repeat("x", 600) + `"}`)
	_, err = r.ResolveToken(b.Context(), token)
	require.NoError(b, err)
	sum := sha256.Sum256([]byte(token))
	b.Run("Cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.(dpop.CachedResolver).Cached(sum)
		}
	})
	b.Run("ResolveToken", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = r.ResolveToken(b.Context(), token)
		}
	})
}

// Two realms, each with its own audience: the tokens of one are validated here, those of the other are JWTs that must be asked
// about. A third server's tokens are no JWTs.
func ExampleByIssuer() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var mistakes []error
	must := func(r dpop.TokenResolver, err error) dpop.TokenResolver {
		mistakes = append(mistakes, err)
		return r
	}
	staff := must(atjwt.NewResolver(ctx, atjwt.Keycloak("https://id.example.com/realms/staff", "orders-staff")))
	customers := must(introspect.NewResolver(introspect.Config{
		Issuer: "https://id.example.com/realms/customers", Audience: "orders",
		Authenticate: introspect.BasicAuth("orders", os.Getenv("CUSTOMERS_SECRET")),
	}))
	partner := must(introspect.NewResolver(introspect.Config{
		Issuer: "https://partner.example.com", Endpoint: "https://partner.example.com/introspect", Audience: "orders",
		Authenticate: introspect.BasicAuth("orders", os.Getenv("PARTNER_SECRET")),
	}))
	all := must(dpop.ByIssuer(map[string]dpop.TokenResolver{
		"https://id.example.com/realms/staff":     staff,
		"https://id.example.com/realms/customers": customers,
	}, partner))
	if err := errors.Join(mistakes...); err != nil {
		log.Fatal(err)
	}
	_ = all // for dpop.Config
}

// Payments must not pass after a logout, so their tokens are asked about, too. All else is validated here.
func ExampleRecheck() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	local, err := atjwt.NewResolver(ctx, atjwt.Keycloak("https://id.example.com/realms/demo", "payments"))
	if err != nil {
		log.Fatal(err)
	}
	authority, err := introspect.NewResolver(introspect.Config{
		Issuer: "https://id.example.com/realms/demo", Audience: "payments",
		Authenticate: introspect.BasicAuth("payments", os.Getenv("CLIENT_SECRET")),
	})
	if err != nil {
		log.Fatal(err)
	}
	both, err := dpop.Recheck(local, authority)
	if err != nil {
		log.Fatal(err)
	}
	_, _ = both, local // for the dpop.Config of payments, and for that of all else
}
