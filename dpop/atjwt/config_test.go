package atjwt_test

import (
	"crypto/tls"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/senderbound/senderbound/dpop/atjwt"
)

// An interval that is meant as "never" must not be one that arithmetic can overflow: a panic in the background would end
// the process.
func TestIntervalsAreLimited(t *testing.T) {
	for name, change := range map[string]func(*atjwt.Config){
		"CacheTTL":           func(c *atjwt.Config) { c.CacheTTL = math.MaxInt64 },
		"RefreshInterval":    func(c *atjwt.Config) { c.RefreshInterval = math.MaxInt64 },
		"MinRefreshInterval": func(c *atjwt.Config) { c.MinRefreshInterval = 25 * time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := atjwt.Config{Issuer: "https://id.example.com", Audience: "api"}
			change(&cfg)
			if _, err := atjwt.NewResolver(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "Config."+name+" is ") {
				t.Errorf("error is %v, want one that names %s", err, name)
			}
		})
	}
}

// F02: a URL that cannot be read is not shown, since a password could be in it.
func TestBadURLIsNotShown(t *testing.T) {
	for _, url := range []string{"https://user:secret@host:port/", "https://user:secret@host/"} {
		_, err := atjwt.NewResolver(t.Context(), atjwt.Config{Issuer: url, Audience: "api"})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("error is %v, want one without the password", err)
		}
	}
}

// D21: keys from a server whose certificate nobody verifies are anyone's.
func TestD21CertificatesAreVerified(t *testing.T) {
	for want, skips := range map[bool]bool{true: true, false: false} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: skips}}}
		_, err := atjwt.NewResolver(t.Context(), atjwt.Config{Issuer: "https://id.example.com", Audience: "api", HTTPClient: client})
		if refused := err != nil && strings.Contains(err.Error(), "Config.HTTPClient does not verify certificates"); refused != want {
			t.Errorf("with InsecureSkipVerify %t the error is %v", skips, err)
		}
	}
}
