//go:build integration

package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/senderbound/senderbound/dpop/dpopclient"
)

// The realms of testdata. Clients, users and their names are the same for a reader of those files; a secret is the
// client's name and "-secret".
const (
	realm        = "senderbound"
	elsewhere    = "elsewhere"    // another realm, with the same client
	rotating     = "rotating"     // whose keys the tests change, and no API is for
	introspected = "introspected" // whose users, sessions and clients the tests change
	audience     = "orders-api"
)

var realms = []string{realm, elsewhere, rotating, introspected}

// client sends what the tests send.
var client = &http.Client{Timeout: time.Minute}

// A keycloak is the authorization server of the run.
type keycloak struct {
	*process
	url           string
	adminPassword string    // of this run
	adminToken    string    // the last one
	adminSince    time.Time // when that was issued
}

// newKeycloak chooses where Keycloak will be. Its issuers have their names from then on, and nobody listens there yet.
func newKeycloak() (*keycloak, error) {
	p, err := newProcess("keycloak")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	// The name, not the address: Keycloak compares the htu of proofs with its host name as configured.
	return &keycloak{process: p, url: fmt.Sprintf("http://localhost:%d", port), adminPassword: rand.Text()}, nil
}

// start runs Keycloak with the realms of testdata, and returns when all of them answer.
//
// The distribution in KEYCLOAK_HOME stays as it is: a home of our own has links to it, and its own data.
func (k *keycloak) start() error {
	distribution, err := need("KEYCLOAK_HOME")
	if err != nil {
		return err
	}
	imports := filepath.Join("data", "import")
	if err := os.MkdirAll(filepath.Join(k.dir, imports), 0o700); err != nil {
		return err
	}
	links := map[string]string{}
	for _, name := range []string{"conf", "lib", "providers", "themes"} {
		links[name] = filepath.Join(distribution, name)
	}
	for _, name := range realms {
		file := "realm-" + name + ".json"
		if links[filepath.Join(imports, file)], err = filepath.Abs(filepath.Join("testdata", file)); err != nil {
			return err
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(k.dir, name)); err != nil {
			return err
		}
	}
	address, err := url.Parse(k.url)
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(distribution, "bin", "kc.sh"), "start", "--optimized", "-Dkc.home.dir="+k.dir,
		"--cache=local", "--import-realm", "--hostname="+k.url,
		"--http-enabled=true", "--http-host=127.0.0.1", "--http-port="+address.Port())
	// Quick to start rather than quick to serve.
	cmd.Env = append(os.Environ(), "JAVA_OPTS_APPEND=-XX:TieredStopAtLevel=1 -XX:-UseG1GC -XX:+UseSerialGC",
		"KC_BOOTSTRAP_ADMIN_USERNAME="+adminName, "KC_BOOTSTRAP_ADMIN_PASSWORD="+k.adminPassword)
	if err := k.process.start(cmd); err != nil {
		return err
	}
	return k.await(func() bool { return !slices.ContainsFunc(realms, func(name string) bool { return !k.has(name) }) }, 3*time.Minute)
}

// issuer returns the issuer identifier of a realm.
func (k *keycloak) issuer(realm string) string { return k.url + "/realms/" + realm }

func (k *keycloak) tokenEndpoint(realm string) string {
	return k.issuer(realm) + "/protocol/openid-connect/token"
}

// has reports whether a realm is served. Keycloak's port is open before its realms are imported.
func (k *keycloak) has(realm string) bool {
	resp, err := client.Get(k.issuer(realm) + "/.well-known/openid-configuration")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// A grant is the answer of a token endpoint.
type grant struct {
	AccessToken  string `json:"access_token"`
	IDToken      string `json:"id_token"`
	RefreshToken string `json:"refresh_token"`
	TokenType    string `json:"token_type"`
}

// clientCredentials returns a token of a client's own, bound to key if there is one.
func (k *keycloak) clientCredentials(realm, client string, key *dpopclient.Key) (grant, error) {
	return k.grant(realm, key, url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {client + "-secret"},
	})
}

// alice returns the tokens of a user, bound to key.
func (k *keycloak) alice(key *dpopclient.Key) (grant, error) {
	return k.grant(realm, key, url.Values{
		"grant_type": {"password"}, "client_id": {"shop-app"}, "username": {"alice"}, "password": {"alice-password"},
		"scope": {"openid"},
	})
}

func (k *keycloak) grant(realm string, key *dpopclient.Key, form url.Values) (g grant, err error) {
	req, err := http.NewRequest("POST", k.tokenEndpoint(realm), strings.NewReader(form.Encode()))
	if err != nil {
		return g, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if key != nil {
		proof, err := key.Proof(dpopclient.Claims{Method: "POST", URI: k.tokenEndpoint(realm)})
		if err != nil {
			return g, err
		}
		req.Header.Set("DPoP", proof)
	}
	resp, err := client.Do(req)
	if err != nil {
		return g, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return g, err
	}
	if resp.StatusCode != http.StatusOK {
		return g, fmt.Errorf("keycloak gave %s no token: %s %s", form.Get("client_id"), resp.Status, body)
	}
	return g, json.Unmarshal(body, &g)
}

// adminName is the user whom Keycloak makes at its first start, in the realm master.
const adminName = "admin"

// admin calls the admin API of a realm. in is the body of the request and out that of the answer, unless they are nil.
func (k *keycloak) admin(method, realm, path string, in, out any) error {
	if time.Since(k.adminSince) > 30*time.Second { // it is good for a minute
		g, err := k.grant("master", nil, url.Values{
			"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {adminName}, "password": {k.adminPassword},
		})
		if err != nil {
			return err
		}
		k.adminToken, k.adminSince = g.AccessToken, time.Now()
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, k.url+"/admin/realms/"+realm+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+k.adminToken)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("keycloak's admin API answers %s %s with %s %s", method, path, resp.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
