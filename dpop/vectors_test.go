package dpop_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
)

// A vector is one request with its verdict, as data: see testdata/vectors/README.md.
type vector struct {
	Name          string        `json:"name"`
	Rows          []string      `json:"rows,omitempty"`
	Method        string        `json:"method"`
	URI           string        `json:"uri"`
	Authorization []string      `json:"authorization"`
	DPoP          []string      `json:"dpop"`
	Now           int64         `json:"now"`
	Token         *vectorToken  `json:"token"`
	Policy        *vectorPolicy `json:"policy,omitempty"`
	Repeat        bool          `json:"repeat,omitempty"`
	Want          dpop.Reason   `json:"want"`
}

type vectorToken struct {
	CNF json.RawMessage `json:"cnf,omitempty"`
	Exp int64           `json:"exp,omitempty"`
}

type vectorPolicy struct {
	Algorithms  []string `json:"algorithms,omitempty"`
	AllowBearer bool     `json:"allow_bearer,omitempty"`
	Nonces      []string `json:"nonces,omitempty"`
}

const vectorFolder = "../testdata/vectors"

// readVectors returns the vectors of all files, by file.
func readVectors(t testing.TB) map[string][]vector {
	t.Helper()
	files, err := filepath.Glob(vectorFolder + "/*.json")
	require.NoError(t, err)
	all := map[string][]vector{}
	for _, file := range files {
		if filepath.Base(file) == "keys.json" {
			continue
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var list []vector
		require.NoError(t, json.Unmarshal(text, &list), file)
		all[filepath.Base(file)] = list
	}
	return all
}

// config returns the configuration under which a vector is judged, with a replay store of its own.
func (v *vector) config() (dpop.Config, *memory) {
	store := new(memory)
	cfg := dpop.Config{Replay: store, Now: func() time.Time { return time.Unix(v.Now, 0) }}
	cfg.Resolver = dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) {
		if v.Token == nil {
			return nil, dpop.ErrTokenInvalid
		}
		token := new(dpop.Token)
		if v.Token.Exp != 0 {
			token.Expiry = time.Unix(v.Token.Exp, 0)
		}
		token.Confirmation, _ = dpop.ParseConfirmation(v.Token.CNF) // Unknown says what the error says
		return token, nil
	})
	if p := v.Policy; p != nil {
		cfg.Algorithms = p.Algorithms
		if p.AllowBearer {
			cfg.AllowBearer = func() bool { return true }
		}
		if p.Nonces != nil {
			cfg.Nonces = listedNonces(p.Nonces)
		}
	}
	return cfg, store
}

func (v *vector) request() dpop.Request {
	return dpop.Request{Method: v.Method, URI: v.URI, Authorization: v.Authorization, DPoP: v.DPoP}
}

// listedNonces takes the nonces of a list, whenever.
type listedNonces []string

func (n listedNonces) Issue(string, time.Time) string { return n[0] }

func (n listedNonces) Check(nonce, _ string, now time.Time) (made, expires time.Time, next string, ok bool) {
	for _, known := range n {
		ok = ok || nonce == known
	}
	return now, now.Add(time.Minute), "", ok
}

func TestVectors(t *testing.T) {
	names := map[string]bool{}
	for file, list := range readVectors(t) {
		for _, v := range list {
			if names[v.Name] {
				t.Errorf("two vectors are called %q", v.Name)
			}
			names[v.Name] = true
			t.Run(file+"/"+v.Name, func(t *testing.T) {
				cfg, store := v.config()
				verifier, err := dpop.NewVerifier(cfg)
				require.NoError(t, err)
				if v.Repeat {
					if e := refusal(t, verifier, v.request()); e != nil {
						t.Fatalf("the first request is refused: %v", e)
					}
				}
				got := "ok"
				if e := refusal(t, verifier, v.request()); e != nil {
					got = string(e.Reason)
				}
				if got != string(v.Want) {
					t.Errorf("got %s, want %s (rows %v)", got, v.Want, v.Rows)
				}
				if v.Want != "ok" && v.Want != dpop.ErrProofReplayed && store.calls > 0 {
					t.Error("C06: the replay store was asked about a request that is refused for another reason")
				}
			})
		}
	}
	if len(names) < 150 {
		t.Errorf("found only %d vectors", len(names))
	}
}

// A vector holds one fault: with the checks before and after it passed, it is the only reason. Every reason that does not
// need a broken dependency must be met by one.
func TestVectorsCoverTheReasons(t *testing.T) {
	met := map[dpop.Reason]bool{}
	for _, list := range readVectors(t) {
		for _, v := range list {
			met[v.Want] = true
		}
	}
	for _, f := range faults {
		e := dpop.Error{Reason: f.reason}
		switch {
		case errors.Is(&e, dpop.ErrUnavailable), f.reason == dpop.ErrProofStale, f.reason == dpop.ErrNonceStale: // a dependency's
		case f.reason == dpop.ErrCertificateMismatch: // vectors have no certificates, only their absence
		case f.reason != dpop.ErrTokenExpired && errors.Is(&e, dpop.ErrTokenInvalid): // the resolver's
		default:
			if !met[f.reason] {
				t.Errorf("no vector is refused for %s", f.reason)
			}
		}
	}
}
