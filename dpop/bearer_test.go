package dpop_test

import (
	"context"
	"crypto/x509"
	"testing"

	"github.com/senderbound/senderbound/dpop"
)

// Every way in which a token can be bound, sent in every way, with Bearer off and on (D05–D08, D13, R028, R038, R150,
// R151). A row that lets a bound token pass without proof of its key is the end of the library.
func TestBindingsAndSchemes(t *testing.T) {
	certificate := &x509.Certificate{Raw: []byte("the client's certificate")}
	another := &x509.Certificate{Raw: []byte("another certificate")}
	jkt, x5t := keys()["ES256"].JKT(), hashOf("the client's certificate")

	bindings := map[string]dpop.Confirmation{
		"unbound": {},
		"key":     {JKT: jkt},
		"cert":    {X5T: x5t},
		"both":    {JKT: jkt, X5T: x5t},
		"unknown": {Unknown: true},
	}
	certificates := map[string]*x509.Certificate{"none": nil, "right": certificate, "wrong": another}

	// want says what happens to a token under a scheme, with or without a proof, with a certificate, and with Bearer
	// allowed or not.
	want := func(binding, scheme string, proof bool, cert string, allowed bool) dpop.Reason {
		if scheme == "DPoP" {
			switch {
			case !proof:
				return dpop.ErrProofMissing
			case binding == "unknown":
				return dpop.ErrConfirmationUnknown
			case binding == "unbound", binding == "cert":
				return dpop.ErrTokenUnbound
			case binding == "both" && cert != "right":
				return dpop.ErrCertificateMismatch
			}
			return ""
		}
		switch {
		case !allowed && cert == "none":
			return dpop.ErrBearerNotAllowed // before anything is asked
		case binding == "unknown":
			return dpop.ErrConfirmationUnknown
		case binding == "key", binding == "both":
			return dpop.ErrTokenBound
		case proof:
			return dpop.ErrProofUnderBearer
		case binding == "cert" && cert != "right":
			return dpop.ErrCertificateMismatch
		case binding == "cert":
			return "" // whatever AllowBearer says: the certificate binds it
		case !allowed:
			return dpop.ErrBearerNotAllowed
		}
		return ""
	}

	for binding, confirmation := range bindings {
		for _, scheme := range []string{"DPoP", "Bearer", "bEaReR"} {
			for _, proof := range []bool{true, false} {
				for cert, clientCertificate := range certificates {
					for mode, allow := range map[string]func() bool{
						"nil": nil, "off": func() bool { return false }, "on": func() bool { return true },
					} {
						name := binding + ", " + scheme
						if proof {
							name += " with proof"
						}
						t.Run(name+", certificate "+cert+", AllowBearer "+mode, func(t *testing.T) {
							w := newWorld(t, func(c *dpop.Config) { c.AllowBearer = allow })
							w.registry.tokens[token].Confirmation = confirmation
							req := dpop.Request{Method: "GET", URI: target, Authorization: []string{scheme + " " + token}, ClientCertificate: clientCertificate}
							if proof {
								req.DPoP = []string{w.proof()}
							}
							wantScheme := scheme
							if scheme == "bEaReR" {
								wantScheme = "Bearer"
							}
							reason := want(binding, wantScheme, proof, cert, mode == "on")
							e := w.verify(req)
							wantReason(t, e, reason)
							if e != nil && w.store.calls != 0 {
								t.Error("a proof was used up by a refused request")
							}
							if reason == dpop.ErrBearerNotAllowed && cert == "none" && w.registry.calls != 0 {
								t.Error("the resolver was asked about a token that could not pass whatever it is")
							}
						})
					}
				}
			}
		}
	}
}

func TestSenderConstrained(t *testing.T) {
	certificate := &x509.Certificate{Raw: []byte("certificate")}
	for name, tt := range map[string]struct {
		confirmation dpop.Confirmation
		scheme       string
		want         bool
	}{
		"a key, under DPoP":           {dpop.Confirmation{JKT: keys()["ES256"].JKT()}, "DPoP", true},
		"a certificate, under Bearer": {dpop.Confirmation{X5T: hashOf("certificate")}, "Bearer", true},
		"nothing, under Bearer":       {dpop.Confirmation{}, "Bearer", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, allowBearer)
			w.registry.tokens[token].Confirmation = tt.confirmation
			req := dpop.Request{Method: "GET", URI: target, Authorization: []string{tt.scheme + " " + token}, ClientCertificate: certificate}
			if tt.scheme == "DPoP" {
				req.DPoP = []string{w.proof()}
			}
			result, err := w.verifier.Verify(context.Background(), req)
			if err != nil {
				t.Fatal(err)
			}
			if got := result.SenderConstrained(); got != tt.want {
				t.Errorf("SenderConstrained is %v", got)
			}
			if (result.Proof != nil) != (tt.scheme == "DPoP") {
				t.Errorf("Proof is %v under %s", result.Proof, tt.scheme)
			}
		})
	}
}

// AllowBearer is a switch that can be turned while requests come in.
func TestAllowBearerIsALiveSwitch(t *testing.T) {
	on := false
	w := newWorld(t, func(c *dpop.Config) { c.AllowBearer = func() bool { return on } })
	w.registry.tokens[token].Confirmation = dpop.Confirmation{}
	req := dpop.Request{Method: "GET", URI: target, Authorization: []string{"Bearer " + token}}

	e := w.verify(req)
	wantReason(t, e, dpop.ErrBearerNotAllowed)
	if len(e.Challenges) != 1 {
		t.Errorf("while off, the challenges are %q: want DPoP alone", e.Challenges)
	}
	on = true
	wantReason(t, w.verify(req), "")
	on = false
	wantReason(t, w.verify(req), dpop.ErrBearerNotAllowed)
}

// Bearer tokens are checked for expiry, too, and a resolver that is down is not a token that is invalid.
func TestBearerTokensAreResolved(t *testing.T) {
	req := dpop.Request{Method: "GET", URI: target, Authorization: []string{"Bearer " + token}}
	w := newWorld(t, allowBearer)
	w.registry.tokens[token] = &dpop.Token{Expiry: now}
	wantReason(t, w.verify(req), dpop.ErrTokenExpired)
	w.registry.tokens = nil
	wantReason(t, w.verify(req), dpop.ErrTokenInvalid)
	w.registry.err = context.DeadlineExceeded
	wantReason(t, w.verify(req), dpop.ErrResolverUnavailable)
}
