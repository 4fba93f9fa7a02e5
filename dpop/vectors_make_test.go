package dpop_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
)

var update = flag.Bool("update", false, "make testdata/vectors anew from the keys there")

// TestVectorFilesAreCurrent makes the vectors and compares them with the files, so that neither changes alone. Signatures
// are deterministic but for RSA-PSS, so those are compared without them.
func TestVectorFilesAreCurrent(t *testing.T) {
	for file, list := range makeVectors(t) {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "\t")
		require.NoError(t, encoder.Encode(list))
		path := filepath.Join(vectorFolder, file)
		if *update {
			require.NoError(t, os.WriteFile(path, text.Bytes(), 0o644))
			continue
		}
		have := readVectors(t)[file]
		if len(have) != len(list) {
			t.Errorf("%s has %d vectors, the generator makes %d: run go test -run Vector -update ./dpop", file, len(have), len(list))
			continue
		}
		for i := range list {
			if got, want := unsigned(t, have[i]), unsigned(t, list[i]); got != want {
				t.Errorf("%s holds\n%s\nthe generator makes\n%s", file, got, want)
			}
		}
	}
}

func unsigned(t *testing.T, v vector) string {
	t.Helper()
	for i, proof := range v.DPoP {
		if parts := strings.Split(proof, "."); len(parts) == 3 && len(parts[2]) == 342 { // RSA of 2048 bits
			v.DPoP[i] = parts[0] + "." + parts[1]
		}
	}
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

// A maker makes vectors around one request that is right: GET target with the token that is bound to the key p256.
type maker struct {
	t    *testing.T
	keys map[string]*dpopclient.Key
	list []vector
}

func newMaker(t *testing.T) *maker {
	t.Helper()
	path := filepath.Join(vectorFolder, "keys.json")
	var file struct {
		Comment string                     `json:"comment"`
		Keys    map[string]json.RawMessage `json:"keys"`
	}
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) && *update {
		file.Comment = "Private keys of the vectors, for tests alone: they are public, so trust none of them anywhere else."
		file.Keys = map[string]json.RawMessage{}
		for name, signer := range newSigners(t) {
			key, err := dpopclient.NewKey(signer)
			require.NoError(t, err)
			file.Keys[name], err = key.PrivateJWK()
			require.NoError(t, err)
		}
		text, err = json.MarshalIndent(file, "", "\t")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, append(text, '\n'), 0o644))
	}
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &file))
	m := &maker{t: t, keys: map[string]*dpopclient.Key{}}
	for name, private := range file.Keys {
		key, err := dpopclient.ParseKey(private)
		require.NoError(t, err, name)
		m.keys[name] = key
	}
	return m
}

func newSigners(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	signers := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "other": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
		signers[name] = key
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	signers["ed25519"] = private
	signers["rsa"], err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return signers
}

type members = map[string]any

// proof returns a proof by the key of this name that is right but for what change did to it.
func (m *maker) proof(name string, change func(header, claims members)) string {
	key := m.keys[name]
	header := members{"typ": "dpop+jwt", "alg": key.Algorithm(), "jwk": m.jwk(name)}
	claims := members{"jti": "vector", "htm": "GET", "htu": target, "iat": now.Unix(), "ath": hashOf(token)}
	if change != nil {
		change(header, claims)
	}
	drop := func(_ string, value any) bool { return value == nil }
	maps.DeleteFunc(header, drop)
	maps.DeleteFunc(claims, drop)
	return m.sign(name, m.json(header), m.json(claims))
}

func (m *maker) json(v any) string {
	text, err := json.Marshal(v)
	require.NoError(m.t, err)
	return string(text)
}

// jwk returns the public key as members that a change may touch.
func (m *maker) jwk(name string) members {
	var jwk members
	require.NoError(m.t, json.Unmarshal(m.keys[name].PublicJWK(), &jwk))
	return jwk
}

func (m *maker) private(name string) members {
	var jwk members
	private, err := m.keys[name].PrivateJWK()
	require.NoError(m.t, err)
	require.NoError(m.t, json.Unmarshal(private, &jwk))
	return jwk
}

// sign signs any header and claims, by its key's algorithm, and always in the same way where that can be.
func (m *maker) sign(name, header, claims string) string {
	input := b64([]byte(header)) + "." + b64([]byte(claims))
	return input + "." + b64(m.signature(m.keys[name].Signer(), input))
}

func (m *maker) signature(signer crypto.Signer, input string) []byte {
	digest := func(h crypto.Hash) []byte { d := h.New(); d.Write([]byte(input)); return d.Sum(nil) }
	switch key := signer.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(key, []byte(input))
	case *ecdsa.PrivateKey:
		hash := map[int]crypto.Hash{256: crypto.SHA256, 384: crypto.SHA384, 521: crypto.SHA512}[key.Params().BitSize]
		der, err := key.Sign(nil, digest(hash), hash) // no source of randomness: the nonce of RFC 6979
		require.NoError(m.t, err)
		var rs struct{ R, S *big.Int }
		_, err = asn1.Unmarshal(der, &rs)
		require.NoError(m.t, err)
		size := (key.Params().BitSize + 7) / 8
		return append(rs.R.FillBytes(make([]byte, size)), rs.S.FillBytes(make([]byte, size))...)
	case *rsa.PrivateKey:
		sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest(crypto.SHA256), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		require.NoError(m.t, err)
		return sig
	}
	m.t.Fatalf("no signature by a %T", signer)
	return nil
}

// add appends a vector: the right request with this proof, but for what change does to it.
func (m *maker) add(want dpop.Reason, rows, name, proof string, changes ...func(*vector)) {
	v := vector{
		Name: name, Rows: strings.Fields(rows), Method: "GET", URI: target, Authorization: []string{"DPoP " + token},
		DPoP: []string{proof}, Now: now.Unix(), Token: &vectorToken{CNF: m.cnf("p256")}, Want: want,
	}
	for _, change := range changes {
		change(&v)
	}
	m.list = append(m.list, v)
}

// cnf returns the cnf claim of a token that is bound to a key.
func (m *maker) cnf(name string) json.RawMessage {
	return json.RawMessage(`{"jkt":"` + m.keys[name].JKT() + `"}`)
}

func (m *maker) take() []vector {
	list := m.list
	m.list = nil
	return list
}

func boundTo(cnf json.RawMessage) func(*vector) { return func(v *vector) { v.Token.CNF = cnf } }
func taking(algorithms ...string) func(*vector) {
	return func(v *vector) { v.Policy = &vectorPolicy{Algorithms: algorithms} }
}
func asURI(uri string) func(*vector) { return func(v *vector) { v.URI = uri } }
func authorized(lines ...string) func(*vector) {
	return func(v *vector) { v.Authorization = append([]string{}, lines...) } // none is [], not null
}
func proofs(lines ...string) func(*vector) {
	return func(v *vector) { v.DPoP = append([]string{}, lines...) }
}
func bearer(v *vector) { v.Policy = &vectorPolicy{AllowBearer: true} }

// makeVectors returns all vectors, by the file they are in.
func makeVectors(t *testing.T) map[string][]vector {
	m := newMaker(t)
	return map[string][]vector{
		"rfc9449.json": m.standard(),
		"accept.json":  m.accept(),
		"form.json":    m.form(),
		"key.json":     m.key(),
		"target.json":  m.target(),
		"time.json":    m.time(),
		"token.json":   m.token(),
	}
}

// standard holds the example proofs of RFC 9449, Figures 2 and 12, with the key that §6.1 names.
func (m *maker) standard() []vector {
	const header = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
	const resource = header + ".eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
	const tokenRequest = header + ".eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	standard := func(v *vector) {
		v.URI, v.Now = "https://resource.example.org/protectedresource", 1562262618
		v.Token.CNF = json.RawMessage(`{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}`)
	}
	m.add("ok", "R014 R016 R017 R020 R030", "RFC 9449 resource request", resource, standard)
	m.add(dpop.ErrProofReplayed, "C01", "RFC 9449 resource request, twice", resource, standard, func(v *vector) { v.Repeat = true })
	m.add(dpop.ErrMethodMismatch, "R016 B01", "RFC 9449 resource request, sent as POST", resource, standard, func(v *vector) { v.Method = "POST" })
	m.add(dpop.ErrTokenHashMismatch, "R020 D01", "RFC 9449 resource request, another token", resource, standard, authorized("DPoP Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxV"))
	m.add(dpop.ErrTokenHashMissing, "R007", "RFC 9449 token request proof, sent to a resource", tokenRequest, standard, func(v *vector) {
		v.Method, v.URI = "POST", "https://server.example.com/token"
	})
	return m.take()
}

// accept holds what must be accepted, however unusual.
func (m *maker) accept() []vector {
	right := m.proof("p256", nil)
	m.add("ok", "R001 R034", "ES256", right)
	m.add("ok", "A23", "EdDSA", m.proof("ed25519", nil), boundTo(m.cnf("ed25519")))
	m.add("ok", "A23", "EdDSA under its other name, Ed25519", m.proof("ed25519", func(h, _ members) { h["alg"] = "Ed25519" }), boundTo(m.cnf("ed25519")))
	m.add("ok", "R174", "PS256", m.proof("rsa", nil), boundTo(m.cnf("rsa")))
	m.add("ok", "R013", "ES384 where it is taken", m.proof("p384", nil), boundTo(m.cnf("p384")), taking("ES384"))
	m.add("ok", "R013", "ES512 where it is taken", m.proof("p521", nil), boundTo(m.cnf("p521")), taking("ES256", "ES512"))
	m.add("ok", "A12", "the other ECDSA signature of a pair", m.otherSignature(right))
	m.add("ok", "A09", "a coordinate that begins with a zero byte", m.leadingZero(32), boundTo(m.leadingZeroCNF()))
	m.add("ok", "A17", "kid, jku, x5u, x5c and x5t in the header are ignored", m.proof("p256", func(h, _ members) {
		h["kid"], h["jku"], h["x5u"], h["x5c"], h["x5t"] = "../../etc/passwd", "http://127.0.0.1:1/", "http://127.0.0.1:1/", []string{"AA"}, "AA"
	}))
	m.add("ok", "R030 D23", "further members of the jwk do not change its thumbprint", m.proof("p256", func(h, _ members) {
		jwk := m.jwk("p256")
		jwk["kid"], jwk["use"], jwk["alg"], jwk["ext"], jwk["key_ops"] = "1", "sig", "ES256", true, []string{"verify"}
		h["jwk"] = jwk
	}))
	m.add("ok", "", "unknown claims and header members", m.proof("p256", func(h, c members) {
		h["cty"], c["sub"], c["https://example.com/x"] = "x", "alice", members{"a": []any{1, nil, true}}
	}))
	m.add("ok", "", "a nonce where none is asked for", m.proof("p256", func(_, c members) { c["nonce"] = "anything" }))
	m.add("ok", "R018", "a nonce where one is asked for", m.proof("p256", func(_, c members) { c["nonce"] = "n1" }), func(v *vector) { v.Policy = &vectorPolicy{Nonces: []string{"n1"}} })
	m.add("ok", "E05", "with a nonce, the time of iat does not matter", m.proof("p256", func(_, c members) { c["nonce"], c["iat"] = "n1", 1 }), func(v *vector) { v.Policy = &vectorPolicy{Nonces: []string{"n1"}} })
	m.add("ok", "", "members in another order, with white space", m.sign("p256",
		"{ \"jwk\" : "+m.json(m.jwk("p256"))+" ,\t\"alg\":\"ES256\", \"typ\":\"dpop+jwt\" }",
		` { "ath":"`+hashOf(token)+`" , "iat":`+m.json(now.Unix())+`,"htu":"`+target+`","htm":"GET","jti":"vector"}`))
	m.add("ok", "", "names and values spelled with escapes", m.sign("p256",
		`{"t\u0079p":"dpop\u002bjwt","alg":"ES\u003256","jwk":`+m.json(m.jwk("p256"))+`}`,
		`{"\u006ati":"\ud83d\ude00","htm":"G\u0045T","htu":"https:\/\/api.example.com\/orders\/7","iat":`+m.json(now.Unix())+`,"ath":"`+hashOf(token)+`"}`))
	m.add("ok", "R055", "a jti of 256 bytes", m.proof("p256", func(_, c members) { c["jti"] = strings.Repeat("j", 256) }))
	m.add("ok", "D12 R140", "the scheme as dPoP", right, authorized("dPoP "+token))
	m.add("ok", "D12", "two spaces after the scheme", right, authorized("DPoP  "+token))
	return m.take()
}

// form holds what is wrong with a proof as a JWS.
func (m *maker) form() []vector {
	right := m.proof("p256", nil)
	h, c, s := segments(right)
	header := func(change func(h members)) string {
		return m.proof("p256", func(h, _ members) { change(h) })
	}
	member := func(name string, value any) string { return header(func(h members) { h[name] = value }) }
	claim := func(name string, value any) string {
		return m.proof("p256", func(_, c members) { c[name] = value })
	}
	rawHeader := func(text string) string { return m.sign("p256", text, m.claims(nil)) }
	rawClaims := func(text string) string { return m.sign("p256", m.header(nil), text) }
	malformed := func(rows, name, proof string) { m.add(dpop.ErrProofMalformed, rows, name, proof) }

	for _, alg := range []string{"none", "nOnE", "HS256", "HS384", "HS512", "ES256K", "RS1", "es256", "ES384", "RS256", ""} {
		m.add(dpop.ErrProofAlgorithm, "A01 R002 R013 R061", "alg "+m.json(alg), member("alg", alg))
	}
	none := header(func(h members) { h["alg"] = "none" })
	m.add(dpop.ErrProofAlgorithm, "A01", "alg none with an empty signature", none[:strings.LastIndexByte(none, '.')+1])
	m.add(dpop.ErrProofAlgorithm, "A02", "HS256 with the public JWK as the secret", m.keyConfusion())
	m.add(dpop.ErrProofAlgorithm, "A03", "HS256 with a jwk of kty oct", header(func(h members) { h["alg"], h["jwk"] = "HS256", members{"kty": "oct", "k": "AAAA"} }))
	malformed("R010", "white space before the header", rawHeader(" "+m.header(nil)))
	malformed("R010", "white space after the header", rawHeader(m.header(nil)+"\n"))
	malformed("R001", "no alg", member("alg", nil))
	malformed("", "alg as a number", member("alg", 256))
	malformed("", "alg null", member("alg", json.RawMessage("null")))
	malformed("", "alg as an array", member("alg", []string{"ES256"}))

	m.add(dpop.ErrProofType, "A15 R012", "no typ", member("typ", nil))
	for _, typ := range []any{"JWT", "at+jwt", "jwt", "dpop", "DPoP+JWT", "application/dpop+jwt", "dpop+jwt ", "", 1, json.RawMessage("null"), []string{"dpop+jwt"}} {
		m.add(dpop.ErrProofType, "A15 A16 R012 R060", "typ "+m.json(typ), member("typ", typ))
	}
	malformed("A14", "crit with an unknown extension", header(func(h members) { h["crit"], h["x"] = []string{"x"}, 1 }))
	malformed("A14", "crit with b64, and b64 false", header(func(h members) { h["crit"], h["b64"] = []string{"b64"}, false }))
	malformed("A14", "crit empty", member("crit", []string{}))
	malformed("A14", "crit null", member("crit", json.RawMessage("null")))
	malformed("A14", "b64 true", member("b64", true))

	malformed("A13", "padding of the signature", right+"==")
	malformed("A13", "padding of the header", h+"="+"."+c+"."+s)
	malformed("A13", "other trailing bits of the signature", right[:len(right)-1]+next(right[len(right)-1]))
	malformed("A13", "a line feed in the signature", h+"."+c+"."+s[:20]+"\n"+s[20:])
	malformed("A13", "the standard base64 alphabet", h+"."+c+"."+strings.NewReplacer("-", "+", "_", "/").Replace(mustHaveURLCharacters(m.t, s)))
	malformed("A21 R010", "two segments", h+"."+c)
	malformed("A21 R010", "four segments", right+"."+s)
	malformed("A21 R010", "five segments", right+"."+s+"."+s)
	malformed("A21 R010", "one segment", h)
	malformed("A21 R010", "a space before", " "+right)
	malformed("A21 R010", "a space after", right+" ")
	m.add(dpop.ErrProofMultiple, "A21", "JSON serialization, which has commas", `{"protected":"`+h+`","payload":"`+c+`","signature":"`+s+`"}`)
	m.add(dpop.ErrProofType, "A18 R060", "an access token as a proof", m.sign("p256", `{"typ":"at+jwt","alg":"ES256","kid":"1"}`, `{"iss":"https://as.example.com","sub":"alice"}`))
	m.add(dpop.ErrProofType, "A18 R060", "an ID token as a proof", m.sign("p256", `{"alg":"ES256","kid":"1"}`, `{"iss":"https://as.example.com","sub":"alice","aud":"app"}`))

	malformed("A19", "alg twice", rawHeader(`{"typ":"dpop+jwt","alg":"none","alg":"ES256","jwk":`+m.json(m.jwk("p256"))+`}`))
	malformed("A19", "jwk twice", rawHeader(`{"typ":"dpop+jwt","alg":"ES256","jwk":`+m.json(m.jwk("other"))+`,"jwk":`+m.json(m.jwk("p256"))+`}`))
	malformed("A19", "kty twice, inside jwk", rawHeader(strings.Replace(m.header(nil), `"kty":`, `"kty":"oct","kty":`, 1)))
	malformed("A19", "htu twice", rawClaims(strings.Replace(m.claims(nil), `"htu":`, `"htu":"https://evil.example/","htu":`, 1)))
	malformed("A19", "htu twice, once spelled with an escape", rawClaims(strings.Replace(m.claims(nil), `"htu":`, `"ht\u0075":"https://evil.example/","htu":`, 1)))
	malformed("A19 A22", "htu and HTU", rawClaims(strings.Replace(m.claims(nil), `"htu":`, `"HTU":"https://evil.example/","htu":`, 1)))
	malformed("A19 A22", "jwk, and jwk with the Kelvin sign for its k", rawHeader(strings.Replace(m.header(nil), `"jwk":`, "\"jw\u212a\":{},\"jwk\":", 1)))
	for _, name := range []string{"jti", "htm", "htu", "iat"} {
		malformed("A22", name+" in capitals", m.proof("p256", func(_, c members) { c[strings.ToUpper(name)] = c[name]; delete(c, name) }))
		malformed("R004 R011", "no "+name, claim(name, nil))
		malformed("R004", name+" null", claim(name, json.RawMessage("null")))
		malformed("R004 B13 C12", name+" as an array", claim(name, []any{"x"}))
		malformed("R004", name+" true", claim(name, true))
	}
	for _, name := range []string{"jti", "htm", "htu"} {
		malformed("R004 B13 C12", name+" as a number", claim(name, 7))
		malformed("R004", name+" as an object", claim(name, members{"a": 1}))
	}
	malformed("C12", "jti empty", claim("jti", ""))
	malformed("C12", "jti of spaces", claim("jti", " \t\u00a0\u3000"))
	malformed("C12", "jti of control characters", claim("jti", "\u0001\u200b"))
	malformed("C03 R055", "jti of 257 bytes", claim("jti", strings.Repeat("j", 257)))
	malformed("C03 R055", "jti of 6 KB", claim("jti", strings.Repeat("j", 5500)))
	malformed("A20", "forty levels of arrays", claim("deep", json.RawMessage(strings.Repeat("[", 40)+strings.Repeat("]", 40))))
	malformed("A20", "1500 levels of arrays", claim("deep", json.RawMessage(strings.Repeat("[", 1500)+strings.Repeat("]", 1500))))
	malformed("A20", "a number beyond float64", rawClaims(strings.Replace(m.claims(nil), `"htu":`, `"n":1e400,"htu":`, 1)))
	malformed("A20", "a lone surrogate", rawClaims(strings.Replace(m.claims(nil), `"vector"`, `"\ud800"`, 1)))
	malformed("A20", "an escaped NUL", rawClaims(strings.Replace(m.claims(nil), `"vector"`, `"vec\u0000tor"`, 1)))
	malformed("A20", "a NUL", rawClaims(strings.Replace(m.claims(nil), `"vector"`, "\"vec\x00tor\"", 1)))
	malformed("A20", "invalid UTF-8", rawClaims(strings.Replace(m.claims(nil), `"vector"`, "\"vec\xfftor\"", 1)))
	malformed("A20", "a comma too many", rawClaims(strings.Replace(m.claims(nil), `}`, `,}`, 1)))
	malformed("A20", "a byte order mark", rawClaims("\ufeff"+m.claims(nil)))
	malformed("A20", "something after the claims", rawClaims(m.claims(nil)+"x"))
	malformed("A20", "claims that are an array", rawClaims(`["jti"]`))
	malformed("A20", "claims that are empty", rawClaims(``))
	malformed("A20", "a header that is null", rawHeader(`null`))
	malformed("A20", "300 claims", m.proof("p256", func(_, c members) {
		for i := range 300 {
			c["x"+m.json(i)] = 0
		}
	}))
	malformed("F05", "a proof of more than 8 KiB", claim("padding", strings.Repeat("x", 8<<10)))
	m.add(dpop.ErrProofMultiple, "D11 R009", "two DPoP fields", right, proofs(right, right))
	m.add(dpop.ErrProofMultiple, "D11 R009", "two proofs in one field", right, proofs(right+", "+right))
	m.add(dpop.ErrProofMissing, "R033", "no DPoP field", right, proofs())
	m.add(dpop.ErrProofMissing, "R033", "an empty DPoP field", right, proofs(""))
	return m.take()
}

// header and claims return the JSON texts of a proof that is right but for what change did to them.
func (m *maker) header(change func(members)) string {
	header := members{"typ": "dpop+jwt", "alg": "ES256", "jwk": m.jwk("p256")}
	if change != nil {
		change(header)
	}
	return m.json(header)
}

func (m *maker) claims(change func(members)) string {
	claims := members{"jti": "vector", "htm": "GET", "htu": target, "iat": now.Unix(), "ath": hashOf(token)}
	if change != nil {
		change(claims)
	}
	return m.json(claims)
}

// key holds what is wrong with a key or a signature.
func (m *maker) key() []vector {
	right := m.proof("p256", nil)
	h, c, s := segments(right)
	jwk := func(name string, change func(members)) string {
		return m.proof(name, func(h, _ members) {
			jwk := m.jwk(name)
			change(jwk)
			h["jwk"] = jwk
		})
	}
	refused := func(rows, name, proof string, changes ...func(*vector)) {
		m.add(dpop.ErrProofKey, rows, name, proof, changes...)
	}
	for _, value := range []any{json.RawMessage("null"), "key", []any{m.jwk("p256")}, members{}, 1} {
		refused("A05", fmt.Sprintf("jwk as %.20s", m.json(value)), m.proof("p256", func(h, _ members) { h["jwk"] = value }))
	}
	refused("A05 R001", "no jwk", m.proof("p256", func(h, _ members) { h["jwk"] = nil }))
	private := func(name, member string) string {
		return jwk(name, func(k members) { k[member] = m.private(name)[member] })
	}
	refused("A04 R003 R015", "EC with d", private("p256", "d"))
	refused("A04 R003 R015", "OKP with d", private("ed25519", "d"))
	for _, member := range []string{"d", "p", "q", "dp", "dq", "qi"} {
		refused("A04 R003 R015", "RSA with "+member, private("rsa", member))
	}
	refused("A04 R003", "RSA with oth", jwk("rsa", func(k members) { k["oth"] = []any{} }))
	refused("A04 R003", "EC with k", jwk("p256", func(k members) { k["k"] = "AA" }))
	refused("A04 R003", "EC with d that is null", jwk("p256", func(k members) { k["d"] = json.RawMessage("null") }))
	refused("A06 R174", "RSA of 1024 bits", m.rsaKey(1024, 65537))
	refused("A07", "RSA of 4104 bits", m.rsaKey(4104, 65537))
	refused("A08", "RSA with e=1, and a signature that needs no key", m.exponentOne(), taking("RS256"))
	refused("A08", "RSA with e=3", m.rsaKey(2048, 3))
	refused("A08", "RSA with an even e", m.rsaKey(2048, 65536))
	refused("A08", "RSA with e beyond 32 bits", m.rsaKey(2048, 1<<33+1))
	refused("A08", "RSA with e as a number", jwk("rsa", func(k members) { k["e"] = 65537 }))
	refused("A08", "Ed25519 with the neutral point, and a signature that needs no key", m.neutralPoint())
	refused("A09", "a point off the curve", jwk("p256", func(k members) { k["y"] = m.jwk("other")["y"] }))
	refused("A09", "the point (0,0)", jwk("p256", func(k members) { k["x"], k["y"] = b64(make([]byte, 32)), b64(make([]byte, 32)) }))
	refused("A09", "no coordinates", jwk("p256", func(k members) { k["x"], k["y"] = "", "" }))
	refused("A09", "a coordinate without its leading zero byte", m.leadingZero(31))
	refused("A09", "a coordinate with a zero byte more", jwk("p256", func(k members) {
		x, _ := base64.RawURLEncoding.DecodeString(k["x"].(string))
		k["x"] = b64(append([]byte{0}, x...))
	}))
	refused("A09", "a compressed point", jwk("p256", func(k members) { delete(k, "y") }))
	refused("A10", "ES256 with a key on P-384", m.proof("p256", func(h, _ members) { h["jwk"] = m.jwk("p384") }))
	refused("A10", "ES256 with an RSA key", m.proof("p256", func(h, _ members) { h["jwk"] = m.jwk("rsa") }))
	refused("A10", "EdDSA with X25519", jwk("ed25519", func(k members) { k["crv"] = "X25519" }))
	refused("A10", "EdDSA with a key on P-256", m.proof("ed25519", func(h, _ members) { h["jwk"] = m.jwk("p256") }))
	refused("A13", "a coordinate with padding", jwk("p256", func(k members) { k["x"] = k["x"].(string) + "=" }))
	refused("", "use enc", jwk("p256", func(k members) { k["use"] = "enc" }))
	refused("", "alg ES384 in the jwk", jwk("p256", func(k members) { k["alg"] = "ES384" }))
	refused("", "key_ops without signatures", jwk("p256", func(k members) { k["key_ops"] = []string{"deriveKey"} }))
	refused("A19", "crv and CRV", jwk("p256", func(k members) { k["CRV"] = "P-256" }))

	signature := func(rows, name, proof string) { m.add(dpop.ErrProofSignature, rows, name, proof) }
	with := func(sig []byte) string { return h + "." + c + "." + b64(sig) }
	sig, err := base64.RawURLEncoding.DecodeString(s)
	require.NoError(m.t, err)
	flipped := bytes.Clone(sig)
	flipped[40] ^= 1
	order := elliptic.P256().Params().N.Bytes()
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])})
	require.NoError(m.t, err)
	signature("A11", "r and s are 0", with(make([]byte, 64)))
	signature("A11", "r is n", with(append(bytes.Clone(order), sig[32:]...)))
	signature("A11", "s is n", with(append(bytes.Clone(sig[:32]), order...)))
	signature("A11", "a signature in DER", with(der))
	signature("A11", "a signature of 63 bytes", with(sig[:63]))
	signature("A11", "a signature of 65 bytes", with(append(bytes.Clone(sig), 0)))
	signature("A11", "no signature", h+"."+c+".")
	signature("R014", "a flipped bit", with(flipped))
	signature("R014", "a signature by another key", m.sign("other", m.header(nil), m.claims(nil)))
	signature("R014", "the signature of another proof", h+"."+c+"."+strings.Split(m.proof("p256", func(_, c members) { c["jti"] = "another" }), ".")[2])
	return m.take()
}

// target holds htm and htu. B05 and R021 have more rows in uri_test.go.
func (m *maker) target() []vector {
	htu := func(uri string) string { return m.proof("p256", func(_, c members) { c["htu"] = uri }) }
	right := m.proof("p256", nil)

	m.add(dpop.ErrMethodMismatch, "B01 R016", "htm get", m.proof("p256", func(_, c members) { c["htm"] = "get" }))
	m.add(dpop.ErrMethodMismatch, "B01 R016", "htm POST", m.proof("p256", func(_, c members) { c["htm"] = "POST" }))
	m.add(dpop.ErrMethodMismatch, "B01 R016", "htm empty", m.proof("p256", func(_, c members) { c["htm"] = "" }))
	m.add(dpop.ErrMethodMismatch, "B01", "htm with a space", m.proof("p256", func(_, c members) { c["htm"] = "GET " }))
	m.add(dpop.ErrTargetUnknown, "B09", "a request for none of the configured origins", right, asURI(""))

	for _, same := range [][3]string{ // name, htu, request
		{"a query in the request", target, target + "?page=2"},
		{"a query in htu", target + "?page=2", target},
		{"two different queries", target + "?page=2", target + "?page=3"},
		{"a fragment in htu", target + "#top", target},
		{"the scheme in capitals", "HTTPS://api.example.com/orders/7", target},
		{"the host in capitals", "https://API.Example.COM/orders/7", target},
		{"the default port", "https://api.example.com:443/orders/7", target},
		{"the default port in the request", target, "https://api.example.com:443/orders/7"},
		{"an empty port", "https://api.example.com:/orders/7", target},
		{"no path and the path /", "https://api.example.com", "https://api.example.com/"},
		{"no path and a query", "https://api.example.com?a=b", "https://api.example.com/"},
		{"an unreserved character encoded", "https://api.example.com/%6frders/7", target},
		{"hexadecimal digits in lower case", "https://api.example.com/a%2fb", "https://api.example.com/a%2Fb"},
		{"a dot segment", "https://api.example.com/x/../orders/./7", target},
		{"an encoded dot segment", "https://api.example.com/x/%2E%2e/orders/7", target},
		{"an IPv6 address", "https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443/"},
	} {
		m.add("ok", "R017 R021 B14", "same URI: "+same[0], htu(same[1]), asURI(same[2]))
	}
	for _, other := range [][3]string{
		{"another host", "https://evil.example/orders/7", target},
		{"a host that begins alike", "https://api.example.com.evil.example/orders/7", target},
		{"the scheme http", "http://api.example.com/orders/7", target},
		{"another port", "https://api.example.com:8443/orders/7", target},
		{"port 80 under https", "https://api.example.com:80/orders/7", target},
		{"port 0", "https://api.example.com:0/orders/7", target},
		{"user information", "https://user@api.example.com/orders/7", target},
		{"user information that looks like the host", "https://api.example.com@evil.example/orders/7", target},
		{"the path in another case", "https://api.example.com/Orders/7", target},
		{"a slash at the end", "https://api.example.com/orders/7/", target},
		{"two slashes", "https://api.example.com//orders/7", target},
		{"an encoded slash", "https://api.example.com/orders%2F7", target},
		{"an encoded slash, encoded again", "https://api.example.com/a%252Fb", "https://api.example.com/a%2Fb"},
		{"a parameter", "https://api.example.com/orders/7;v=1", target},
		{"a backslash", `https://api.example.com\orders\7`, target},
		{"a backslash in the path", `https://api.example.com/orders\7`, target},
		{"a space before", " " + target, target},
		{"a space after", target + " ", target},
		{"a tab inside", "https://api.example.com/orders/\t7", target},
		{"CR and LF", target + "\r\nX: y", target},
		{"a dot at the end of the host", "https://api.example.com./orders/7", target},
		{"a host in another script", "https://\u0430pi.example.com/orders/7", target},
		{"a host in full-width letters", "https://\uff41pi.example.com/orders/7", target},
		{"an IPv4-mapped address", "https://[::ffff:192.0.2.1]/", "https://192.0.2.1/"},
		{"a zone", "https://[fe80::1%25eth0]/", "https://[fe80::1]/"},
		{"a relative reference", "/orders/7", target},
		{"a reference without scheme", "//api.example.com/orders/7", target},
		{"no authority", "https:/orders/7", target},
		{"no host", "https:///orders/7", target},
		{"half a percent-encoding", "https://api.example.com/orders/7%2", target},
		{"a character that is not ASCII", "https://api.example.com/orders/7\u00e9", target},
		{"an empty htu", "", target},
		{"5 KB", "https://api.example.com/" + strings.Repeat("a", 5000), target},
	} {
		m.add(dpop.ErrURIMismatch, "R017 B03 B04 B05 B06 B07 B08 B13", "other URI: "+other[0], htu(other[1]), asURI(other[2]))
	}
	return m.take()
}

// time holds iat, exp, nbf, the nonce, and what comes twice.
func (m *maker) time() []vector {
	claim := func(name string, value any) string { return m.proof("p256", func(_, c members) { c[name] = value }) }
	at := now.Unix()
	nonces := func(v *vector) { v.Policy = &vectorPolicy{Nonces: []string{"n1"}} }

	m.add("ok", "R019 R053", "iat 60 s ago", claim("iat", at-60))
	m.add(dpop.ErrProofTooOld, "R019 R053", "iat 61 s ago", claim("iat", at-61))
	m.add(dpop.ErrProofTooOld, "C10", "iat 0", claim("iat", 0))
	m.add("ok", "R019 R175 C08", "iat 10 s ahead", claim("iat", at+10))
	m.add(dpop.ErrProofFromFuture, "R019 C08", "iat 11 s ahead", claim("iat", at+11))
	m.add(dpop.ErrProofFromFuture, "R175 C08", "iat 61 s ahead", claim("iat", at+61))
	m.add("ok", "C10", "iat with a fraction", claim("iat", json.RawMessage("1763999999.5")))
	m.add("ok", "C10", "iat with an exponent", claim("iat", json.RawMessage("1.764e9")))
	m.add(dpop.ErrProofMalformed, "C10", "iat in milliseconds", claim("iat", at*1000))
	m.add(dpop.ErrProofMalformed, "C10", "iat 1e308", claim("iat", json.RawMessage("1e308")))
	m.add(dpop.ErrProofMalformed, "C10", "iat negative", claim("iat", -at))
	m.add(dpop.ErrProofMalformed, "C10", "iat as a string", claim("iat", m.json(at)))
	m.add(dpop.ErrProofFromFuture, "C10", "iat in the year 9999", claim("iat", int64(253402300799)))
	m.add("ok", "C11", "exp a second ahead", claim("exp", at+1))
	m.add(dpop.ErrProofTooOld, "C11", "exp now", claim("exp", at))
	m.add(dpop.ErrProofMalformed, "C11", "exp as a string", claim("exp", m.json(at+1)))
	m.add("ok", "C11", "nbf 10 s ahead", claim("nbf", at+10))
	m.add(dpop.ErrProofFromFuture, "C11", "nbf 11 s ahead", claim("nbf", at+11))
	m.add(dpop.ErrProofReplayed, "C01", "the same proof twice", m.proof("p256", nil), func(v *vector) { v.Repeat = true })
	m.add(dpop.ErrNonceMissing, "E01 R018 R058", "no nonce where one is asked for", m.proof("p256", nil), nonces)
	m.add(dpop.ErrNonceInvalid, "E02 R018 R045", "a nonce that is not ours", claim("nonce", "n2"), nonces)
	m.add(dpop.ErrNonceInvalid, "E02", "a nonce that is a number", claim("nonce", 1), nonces)
	m.add(dpop.ErrNonceInvalid, "E02", "a nonce that is null", claim("nonce", json.RawMessage("null")), nonces)
	return m.take()
}

// token holds ath, the token's binding, and the Authorization field.
func (m *maker) token() []vector {
	right := m.proof("p256", nil)
	ath := func(value any) string { return m.proof("p256", func(_, c members) { c["ath"] = value }) }
	sum := sha256.Sum256([]byte(token))

	m.add(dpop.ErrTokenHashMissing, "D01 R007", "no ath", ath(nil))
	m.add(dpop.ErrTokenHashMismatch, "D01 R020", "ath of another token", ath(hashOf("another")))
	m.add(dpop.ErrTokenHashMismatch, "D01", "ath with padding", ath(hashOf(token)+"="))
	m.add(dpop.ErrTokenHashMismatch, "D01", "ath in the standard alphabet", ath(base64.StdEncoding.EncodeToString(sum[:])))
	m.add(dpop.ErrTokenHashMismatch, "D01", "ath in hexadecimal digits", ath(new(big.Int).SetBytes(sum[:]).Text(16)))
	m.add(dpop.ErrTokenHashMismatch, "D01", "ath as an array", ath([]string{hashOf(token)}))
	m.add(dpop.ErrTokenHashMismatch, "D01", "ath null", ath(json.RawMessage("null")))
	m.add(dpop.ErrTokenHashMismatch, "D01", "ath empty", ath(""))
	m.add(dpop.ErrKeyMismatch, "D02 R029", "a proof by another key", m.proof("other", nil))
	m.add(dpop.ErrTokenInvalid, "D15", "a token that no one knows", right, func(v *vector) { v.Token = nil })
	m.add(dpop.ErrTokenExpired, "D15", "a token that expires now", right, func(v *vector) { v.Token.Exp = v.Now })
	m.add("ok", "D15", "a token that expires in a second", right, func(v *vector) { v.Token.Exp = v.Now + 1 })
	m.add(dpop.ErrTokenUnbound, "D07 R028", "a token without cnf", right, boundTo(nil))
	m.add("ok", "D04 R152", "cnf with another member, as Keycloak makes it", right, boundTo(json.RawMessage(`{"jkt":"`+m.keys["p256"].JKT()+`","kc-jkt-type":"dpop"}`)))
	for _, cnf := range []string{`{}`, `[]`, `null`, `"jkt"`, `{"jkt":""}`, `{"jkt":null}`, `{"jkt":1}`, `{"jkt":["a"]}`, `{"JKT":"` + m.keys["p256"].JKT() + `"}`,
		`{"jkt":"` + m.keys["p256"].JKT() + `="}`, `{"kid":"1"}`, `{"jwk":{}}`, `{"jkt":"` + m.keys["p256"].JKT() + `","x5t#S256":1}`} {
		m.add(dpop.ErrConfirmationUnknown, "D03 R152", "cnf "+cnf, right, boundTo(json.RawMessage(cnf)))
	}
	m.add(dpop.ErrConfirmationUnknown, "D23", "cnf with a SHA-1 thumbprint", right, boundTo(json.RawMessage(`{"jkt":"AAAAAAAAAAAAAAAAAAAAAAAAAAA"}`)))
	m.add(dpop.ErrCertificateMismatch, "D13 R151", "a token that is bound to a certificate, too", right, boundTo(json.RawMessage(`{"jkt":"`+m.keys["p256"].JKT()+`","x5t#S256":"`+hashOf("certificate")+`"}`)))
	m.add(dpop.ErrTokenUnbound, "R151", "a token that is bound to a certificate alone", right, boundTo(json.RawMessage(`{"x5t#S256":"`+hashOf("certificate")+`"}`)))

	m.add(dpop.ErrBearerNotAllowed, "D05 R038", "a bound token as Bearer", right, authorized("Bearer "+token), proofs())
	m.add(dpop.ErrTokenBound, "D05 R038", "a bound token as Bearer where Bearer is taken", right, authorized("Bearer "+token), proofs(), bearer)
	m.add(dpop.ErrTokenBound, "D05 D06 R038", "a bound token as Bearer with its proof", right, authorized("Bearer "+token), bearer)
	m.add(dpop.ErrTokenBound, "D05 R140", "a bound token as bEaReR", right, authorized("bEaReR "+token), proofs(), bearer)
	m.add("ok", "R160", "an unbound token as Bearer where Bearer is taken", right, authorized("Bearer "+token), proofs(), bearer, boundTo(nil))
	m.add(dpop.ErrBearerNotAllowed, "R160", "an unbound token as Bearer", right, authorized("Bearer "+token), proofs(), boundTo(nil))
	m.add(dpop.ErrProofUnderBearer, "D08", "an unbound token as Bearer with a proof", right, authorized("Bearer "+token), bearer, boundTo(nil))
	m.add(dpop.ErrConfirmationUnknown, "D03", "a token with an empty cnf as Bearer", right, authorized("Bearer "+token), proofs(), bearer, boundTo(json.RawMessage(`{}`)))

	m.add(dpop.ErrNoCredentials, "R039", "no Authorization field", right, authorized())
	m.add(dpop.ErrMalformedAuthorization, "D10 R144 R162 R170", "the token in the query", right, authorized(), asURI(target+"?access_token="+token))
	m.add(dpop.ErrUnsupportedScheme, "", "Basic", right, authorized("Basic YTpi"))
	m.add(dpop.ErrMalformedAuthorization, "D09 R143", "two Authorization fields", right, authorized("DPoP "+token, "DPoP "+token))
	m.add(dpop.ErrMalformedAuthorization, "D09", "two schemes in one field", right, authorized("DPoP "+token+", Bearer "+token))
	m.add(dpop.ErrMalformedAuthorization, "D12", "a tab after the scheme", right, authorized("DPoP\t"+token))
	m.add(dpop.ErrMalformedAuthorization, "", "the scheme without a token", right, authorized("DPoP"))
	m.add(dpop.ErrTokenInvalid, "A18", "a proof as the token", m.proof("p256", func(_, c members) { c["ath"] = hashOf(right) }), authorized("DPoP "+right), func(v *vector) { v.Token = nil })
	return m.take()
}

// otherSignature returns the proof with s replaced by n-s, which is a signature as well.
func (m *maker) otherSignature(proof string) string {
	h, c, s := segments(proof)
	sig, err := base64.RawURLEncoding.DecodeString(s)
	require.NoError(m.t, err)
	new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:])).FillBytes(sig[32:])
	return h + "." + c + "." + b64(sig)
}

// keyConfusion signs with HS256, the public JWK being the secret, as a verifier that picks its method by alg would check.
func (m *maker) keyConfusion() string {
	header := m.header(func(h members) { h["alg"] = "HS256" })
	input := b64([]byte(header)) + "." + b64([]byte(m.claims(nil)))
	mac := hmac.New(sha256.New, []byte(m.json(m.jwk("p256"))))
	mac.Write([]byte(input))
	return input + "." + b64(mac.Sum(nil))
}

// leadingZeroKey is the first of the keys 1, 2, 3, … on P-256 whose x begins with a zero byte.
func (m *maker) leadingZeroKey() (key *ecdsa.PrivateKey, x, y []byte) {
	for i := 1; ; i++ {
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), big.NewInt(int64(i)).FillBytes(make([]byte, 32)))
		require.NoError(m.t, err)
		point, err := key.PublicKey.Bytes()
		require.NoError(m.t, err)
		if point[1] == 0 {
			return key, point[1:33], point[33:]
		}
	}
}

// leadingZero returns a proof by that key, of whose x the last size bytes are kept.
func (m *maker) leadingZero(size int) string {
	key, x, y := m.leadingZeroKey()
	header := m.header(func(h members) {
		h["jwk"] = members{"kty": "EC", "crv": "P-256", "x": b64(x[32-size:]), "y": b64(y)}
	})
	input := b64([]byte(header)) + "." + b64([]byte(m.claims(nil)))
	return input + "." + b64(m.signature(key, input))
}

func (m *maker) leadingZeroCNF() json.RawMessage {
	key, _, _ := m.leadingZeroKey()
	client, err := dpopclient.NewKey(key)
	require.NoError(m.t, err)
	return json.RawMessage(`{"jkt":"` + client.JKT() + `"}`)
}

// rsaKey returns a proof with an RSA key of this size and exponent. No one has its private half, so the signature is one
// of zeros: such a key must be refused before anything is computed with it.
func (m *maker) rsaKey(bits int, exponent int64) string {
	modulus := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	modulus.Add(modulus, big.NewInt(1))
	header := m.header(func(h members) {
		h["alg"], h["jwk"] = "PS256", members{"kty": "RSA", "n": b64(modulus.Bytes()), "e": b64(big.NewInt(exponent).Bytes())}
	})
	return b64([]byte(header)) + "." + b64([]byte(m.claims(nil))) + "." + b64(make([]byte, bits/8))
}

// exponentOne returns a proof that anyone can make: with e=1 the signature is the padded hash itself (RFC 8017 §9.2).
func (m *maker) exponentOne() string {
	modulus := m.keys["rsa"].Signer().Public().(*rsa.PublicKey).N
	header := m.header(func(h members) {
		h["alg"], h["jwk"] = "RS256", members{"kty": "RSA", "n": b64(modulus.Bytes()), "e": "AQ"}
	})
	input := b64([]byte(header)) + "." + b64([]byte(m.claims(nil)))
	sum := sha256.Sum256([]byte(input))
	sha256Info := []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}
	padded := bytes.Repeat([]byte{0xff}, 256)
	padded[0], padded[1], padded[256-len(sha256Info)-33] = 0, 1, 0
	copy(padded[256-len(sha256Info)-32:], sha256Info)
	copy(padded[256-32:], sum[:])
	return input + "." + b64(padded)
}

// neutralPoint returns a proof that anyone can make: the key and R are the neutral element, and S is 0.
func (m *maker) neutralPoint() string {
	neutral := make([]byte, 32)
	neutral[0] = 1
	header := m.header(func(h members) {
		h["alg"], h["jwk"] = "EdDSA", members{"kty": "OKP", "crv": "Ed25519", "x": b64(neutral)}
	})
	input := b64([]byte(header)) + "." + b64([]byte(m.claims(nil)))
	sig := append(bytes.Clone(neutral), make([]byte, 32)...)
	if !ed25519.Verify(neutral, []byte(input), sig) {
		m.t.Error("crypto/ed25519 refuses the signature that needs no key: then the check of small orders is not needed")
	}
	return input + "." + b64(sig)
}

// next returns the character of base64url after c, which differs in the last bit.
func next(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return alphabet[strings.IndexByte(alphabet, c)+1:][:1]
}

func mustHaveURLCharacters(t *testing.T, s string) string {
	t.Helper()
	if !strings.ContainsAny(s, "-_") {
		t.Fatal("the signature has neither - nor _: change the claims a little")
	}
	return s
}
