package dpop_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
)

// F02: no record, error text, challenge or body holds a token, a proof, a jti, a nonce or a part of a private key.
func TestF02NothingSecretIsToldToAnyone(t *testing.T) {
	t.Run("vectors", func(t *testing.T) {
		for _, list := range readVectors(t) {
			for _, v := range list {
				cfg, _ := v.config()
				checkCanary(t, v.Name, cfg, v.request())
			}
		}
	})
	t.Run("faults", func(t *testing.T) {
		for name, f := range faults {
			w := newWorld(t)
			proof := w.proof(set("jti", "the-canary-jti"), set("nonce", "the-canary-nonce"))
			if f.proof != nil {
				proof = w.proof(set("jti", "the-canary-jti"), set("nonce", "the-canary-nonce"), f.proof)
			}
			if f.world != nil {
				f.world(w)
			}
			req := request(proof)
			if f.request != nil {
				f.request(&req, proof)
			}
			w.verifier = w.newVerifier(func(c *dpop.Config) {
				if f.config != nil {
					f.config(c)
				}
			})
			checkCanary(t, name, w.verifier.Config(), req)
		}
	})
}

// checkCanary sends a request and searches all that is said about it for what must not be said.
func checkCanary(t *testing.T, name string, cfg dpop.Config, req dpop.Request) {
	t.Helper()
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: false}))
	v, err := dpop.NewVerifier(cfg)
	require.NoError(t, err)
	_, err = v.Verify(context.Background(), req)
	if err == nil {
		if log.Len() > 0 {
			t.Errorf("%s: an accepted request is logged: %s", name, log.String())
		}
		return
	}
	var e *dpop.Error
	require.True(t, errors.As(err, &e))
	if log.Len() == 0 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), string(e.Reason)) {
		t.Errorf("%s: want one record with the reason %s: %q", name, e.Reason, log.String())
	}
	answer := httptest.NewRecorder()
	dpop.WriteError(answer, err)
	said := map[string]string{
		"the log": log.String(), "%v": fmt.Sprintf("%v", err), "%+v": fmt.Sprintf("%+v", err), "%s": fmt.Sprintf("%s", err),
		"the answer": fmt.Sprint(answer.Header(), answer.Body), "LogValue": e.LogValue().String(),
	}
	for _, secret := range secretsOf(req) {
		for where, text := range said {
			if strings.Contains(text, secret) {
				t.Errorf("%s: %s holds %.60q", name, where, secret)
			}
		}
	}
}

// secretsOf returns what must stay inside: the token, the segments of the proof, its jti and nonce, and the private members
// of its jwk.
func secretsOf(req dpop.Request) []string {
	var secrets []string
	add := func(s string) {
		if len(s) >= 6 { // shorter ones stand in any text
			secrets = append(secrets, s)
		}
	}
	for _, line := range req.Authorization {
		if words := strings.Fields(line); len(words) > 1 {
			add(words[len(words)-1])
		}
	}
	for _, line := range req.DPoP {
		for _, segment := range strings.Split(line, ".") {
			add(segment)
			text, err := base64.RawURLEncoding.DecodeString(segment)
			var object struct {
				JTI, Nonce any
				JWK        map[string]any
			}
			if err != nil || json.Unmarshal(text, &object) != nil {
				continue
			}
			for _, value := range []any{object.JTI, object.Nonce, object.JWK["d"], object.JWK["p"], object.JWK["q"], object.JWK["dp"], object.JWK["dq"], object.JWK["qi"]} {
				if s, ok := value.(string); ok {
					add(s)
				}
			}
		}
	}
	return secrets
}

// The control: the search finds a canary that is there.
func TestF02TheCanarySings(t *testing.T) {
	secrets := secretsOf(request(newWorld(t).proof(set("jti", "the-canary-jti"), set("nonce", "the-canary-nonce"))))
	for _, want := range []string{token, "the-canary-jti", "the-canary-nonce"} {
		found := false
		for _, secret := range secrets {
			found = found || secret == want
		}
		if !found {
			t.Errorf("the search does not look for %q", want)
		}
	}
}

// A refusal for which the operator is to blame, or a dependency, is louder than one for which the client is.
func TestLogLevels(t *testing.T) {
	for fault, want := range map[string]string{"htm": "INFO", "the store cannot tell": "ERROR", "the resolver cannot tell": "ERROR"} {
		var log bytes.Buffer
		f := faults[fault]
		w := newWorld(t, func(c *dpop.Config) { c.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
		req := request(w.proof())
		if f.world != nil {
			f.world(w)
		}
		if f.request != nil {
			f.request(&req, req.DPoP[0])
		}
		w.verify(req)
		var record struct {
			Level string
			DPoP  struct {
				Reason, Code string
				Status       int
			}
		}
		require.NoError(t, json.Unmarshal(log.Bytes(), &record))
		if record.Level != want || record.DPoP.Reason != string(f.reason) || record.DPoP.Code != string(f.code) || record.DPoP.Status == 0 {
			t.Errorf("%s: the record is %s", fault, log.String())
		}
	}
}
