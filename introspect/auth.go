package introspect

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/senderbound/senderbound/dpop/dpopclient"
)

// BasicAuth authenticates with a client's id and secret in the Authorization field (client_secret_basic, RFC 6749 §2.3.1).
func BasicAuth(clientID, secret string) func(*http.Request, url.Values) error {
	return func(req *http.Request, _ url.Values) error {
		if clientID == "" || secret == "" {
			return errNoSecret
		}
		req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(secret))
		return nil
	}
}

// ClientSecretPost authenticates with a client's id and secret in the form (client_secret_post, RFC 6749 §2.3.1).
func ClientSecretPost(clientID, secret string) func(*http.Request, url.Values) error {
	return func(_ *http.Request, form url.Values) error {
		if clientID == "" || secret == "" {
			return errNoSecret
		}
		form.Set("client_id", clientID)
		form.Set("client_secret", secret)
		return nil
	}
}

var errNoSecret = errors.New("the client's id or its secret is empty: give both")

// MutualTLS authenticates with the client certificate of Config.HTTPClient's transport (RFC 8705 §2), and says in the form
// whose it is. Where the server's metadata have mtls_endpoint_aliases, set Config.Endpoint to the one for introspection.
func MutualTLS(clientID string) func(*http.Request, url.Values) error {
	return func(_ *http.Request, form url.Values) error {
		if clientID == "" {
			return errors.New("the client's id is empty: give the one that the certificate is registered for")
		}
		form.Set("client_id", clientID)
		return nil
	}
}

// Bearer authenticates with an access token of this resource's own, which token returns for each call. Its error becomes part
// of ours, so it must hold no secret.
func Bearer(token func(ctx context.Context) (string, error)) func(*http.Request, url.Values) error {
	return func(req *http.Request, _ url.Values) error {
		own, err := token(req.Context())
		if err != nil {
			return err
		}
		if own == "" {
			return errors.New("the function that was given to Bearer returned no token")
		}
		req.Header.Set("Authorization", "Bearer "+own)
		return nil
	}
}

// assertionLife is how long an assertion of PrivateKeyJWT is good, in seconds.
const assertionLife = 60

// PrivateKeyJWT authenticates with an assertion that the client signs (private_key_jwt, RFC 7523 §2.2): a new one, with a new
// jti, for each call, good for a minute. audience is what the authorization server wants there: its issuer identifier, or the
// URL of its token endpoint. The algorithm is the key's: ES256, ES384, ES512, EdDSA or PS256. keyID, if not "", becomes kid.
// signer may be an HSM's, and is called by any number of goroutines; its error becomes part of ours.
func PrivateKeyJWT(clientID, audience string, signer crypto.Signer, keyID string) (func(*http.Request, url.Values) error, error) {
	key, err := dpopclient.NewKey(signer) // which algorithm it is for, and whether it is strong enough
	if err != nil {
		return nil, fmt.Errorf("introspect: PrivateKeyJWT: %w", err)
	}
	if clientID == "" || audience == "" {
		return nil, errors.New("introspect: PrivateKeyJWT: clientID or audience is empty: give the client's id, and what the server " +
			"wants as audience, such as its issuer identifier")
	}
	algorithm, err := jws.NewSigner(jwa.SignatureAlgorithm(key.Algorithm()))
	if err != nil {
		return nil, fmt.Errorf("introspect: PrivateKeyJWT: %w", err)
	}
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		Type      string `json:"typ"`
		KeyID     string `json:"kid,omitempty"`
	}{key.Algorithm(), "JWT", keyID})
	if err != nil {
		return nil, fmt.Errorf("introspect: PrivateKeyJWT: %w", err)
	}
	return func(_ *http.Request, form url.Values) error {
		now := time.Now().Unix()
		claims, err := json.Marshal(map[string]any{
			"iss": clientID, "sub": clientID, "aud": audience, "jti": rand.Text(), "iat": now, "exp": now + assertionLife,
		})
		if err != nil {
			return err
		}
		encode := base64.RawURLEncoding.EncodeToString
		input := encode(header) + "." + encode(claims)
		signature, err := algorithm.Sign([]byte(input), key.Signer())
		if err != nil {
			return fmt.Errorf("signing the assertion: %w", err)
		}
		form.Set("client_id", clientID)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", input+"."+encode(signature))
		return nil
	}, nil
}
