package atjwt_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
)

// fuzzTime is the clock of the fuzz targets; seeds from other times would have expired.
var fuzzTime = time.Unix(1_800_000_000, 0)

// FuzzResolveToken resolves tokens that are anything at all (raw) and, since none of these has a good signature, others with
// any header and payload that the issuer has signed. Nothing panics, a refusal says so by ErrTokenInvalid and holds no
// token, and what is accepted jwx accepts, too.
func FuzzResolveToken(f *testing.F) {
	i := newIssuer(all()...)
	cfg := config(i)
	cfg.Now = func() time.Time { return fuzzTime }
	ctx, cancel := context.WithCancel(context.Background())
	r, err := atjwt.NewResolver(ctx, cfg)
	require.NoError(f, err)

	const header = `{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}`
	claims := rfc9068().with(members{"iat": fuzzTime.Unix(), "exp": fuzzTime.Unix() + 60})
	payload := string(must(json.Marshal(claims)))
	_, err = r.ResolveToken(context.Background(), signRaw(header, payload))
	require.NoError(f, err, "the control")
	cancel() // so that unknown keys are not waited for

	for _, raw := range []string{"", ".", "..", "....", signRaw(header, payload), unsigned(members{"alg": "none"}, []byte(payload))} {
		f.Add(raw, "", "")
	}
	for _, h := range []string{
		header, `{}`, `[]`, `{"alg":"EdDSA","typ":"application/AT+JWT"}`, `{"alg":"Ed25519","typ":"at+jwt","kid":"ed"}`,
		`{"alg":"EdDSA","typ":"at+jwt","crit":["b64"],"b64":false}`, `{"alg":"EdDSA","typ":"at+jwt","jku":"https://x","x5c":["MIIC"]}`,
		`{"alg":"ES256","typ":"at+jwt","kid":"ec"}`, `{"alg":"EdDSA","alg":"none","typ":"at+jwt"}`,
	} {
		f.Add("", h, payload)
	}
	for _, changes := range []members{
		{"aud": []string{"x", audience}}, {"nbf": fuzzTime.Unix() + 5}, {"nbf": 1.5}, {"exp": 1e18}, {"cnf": "x"}, {"cnf": nil}, {"scope": nil},
	} {
		f.Add("", header, string(must(json.Marshal(claims.with(changes)))))
	}
	f.Add("", header, strings.Replace(payload, `"sub":"alice"`, `"sub":"\u0061l\ud83d\ude00"`, 1))

	f.Fuzz(func(t *testing.T, raw, header, payload string) {
		tok := raw
		if raw == "" {
			tok = signRaw(header, payload)
		}
		got, err := r.ResolveToken(context.Background(), tok)
		if err != nil {
			require.Nil(t, got)
			if !errors.Is(err, dpop.ErrTokenInvalid) {
				require.ErrorContains(t, err, "has ended") // a key identifier that is not known
			}
			return
		}
		requireJWXAccepts(t, tok, got)
	})
}

// requireJWXAccepts requires that jwx takes a token that was accepted, and reads the same from it.
//
// There are two differences, both in the header, where the signature is checked with crypto/ed25519 alone: jwx does not
// know the name Ed25519 (RFC 9864), and insists that members which are of no use here, such as jku and x5c, are well-formed.
func requireJWXAccepts(t *testing.T, tok string, got *dpop.Token) {
	parts := strings.Split(tok, ".")
	header, payload, signature := decode(t, parts[0]), decode(t, parts[1]), decode(t, parts[2])
	require.True(t, ed25519.Verify(edKey().Public().(ed25519.PublicKey), []byte(parts[0]+"."+parts[1]), signature))
	require.Equal(t, string(payload), string(got.Raw))

	var known struct{ Alg, Typ, Kid string }
	strict := json.NewDecoder(bytes.NewReader(header))
	strict.DisallowUnknownFields()
	if strict.Decode(&known) == nil && known.Alg == "EdDSA" {
		verified, err := jws.Verify([]byte(tok), jws.WithKey(jwa.EdDSA, edKey().Public()), jws.WithCompact())
		require.NoError(t, err)
		require.Equal(t, string(verified), string(payload))
	}

	parsed, err := jwt.ParseInsecure(payload)
	require.NoError(t, err)
	require.NoError(t, jwt.Validate(parsed,
		jwt.WithClock(jwt.ClockFunc(func() time.Time { return fuzzTime })), jwt.WithAcceptableSkew(10*time.Second),
		jwt.WithIssuer(issuerURL), jwt.WithAudience(audience)))
	require.Equal(t, parsed.Subject(), got.Subject)
	require.Equal(t, parsed.Audience(), got.Audience)
	require.WithinDuration(t, parsed.Expiration(), got.Expiry, time.Second)
}

func decode(t *testing.T, segment string) []byte {
	data, err := base64.RawURLEncoding.DecodeString(segment)
	require.NoError(t, err)
	return data
}

// FuzzKeySet gives a Resolver anything at all as the issuer's keys. It takes them or says that there are none; nothing
// panics, in the background least of all, where it would end the process.
func FuzzKeySet(f *testing.F) {
	f.Add(string(must(json.Marshal(members{"keys": all()}))))
	f.Add(`{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"RSA","n":"AQ","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"","y":""},null,1]}`)
	f.Add(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA","alg":"EdDSA","use":"sig","key_ops":["verify"],"x5c":[""]}]}`)
	good := token(nil, nil)
	f.Fuzz(func(t *testing.T, body string) {
		i := newIssuer()
		i.route(jwksPath, text(body))
		cfg := config(i)
		cfg.CacheEntries = 1
		cfg.MinRefreshInterval = time.Minute
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r, err := atjwt.NewResolver(ctx, cfg)
		require.NoError(t, err)
		_, err = r.ResolveToken(ctx, good)
		if err == nil {
			require.Contains(t, body, `"EC"`)
		}
	})
}
