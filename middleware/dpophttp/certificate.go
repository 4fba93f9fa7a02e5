package dpophttp

import (
	"crypto/x509"
	"encoding/base64"
	"strings"
)

// clientCert returns the certificate of a Client-Cert field (RFC 9440 §2.2), a byte sequence between colons, or nil if
// there is not exactly one: a token that is bound to a certificate is then refused.
func clientCert(lines []string) *x509.Certificate {
	if len(lines) != 1 {
		return nil
	}
	text := strings.Trim(lines[0], " ")
	if len(text) < 2 || text[0] != ':' || text[len(text)-1] != ':' {
		return nil
	}
	der, err := base64.StdEncoding.Strict().DecodeString(text[1 : len(text)-1])
	if err != nil || strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	return cert
}
