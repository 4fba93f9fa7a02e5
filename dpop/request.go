package dpop

import (
	"crypto/x509"
	"net/http"
	"strings"
)

// A Request is what DPoP needs to know of a request, independent of transport.
type Request struct {
	// Method is the method as it stood on the wire, such as GET. It is compared exactly (RFC 9110 §9.1).
	Method string

	// URI is the absolute target URI as the client addressed it, with scheme and host. Query and fragment are no part of
	// what a proof covers (RFC 9449 §4.3); a query with an access_token is refused. Scheme, host and a path prefix must come
	// from configuration, not from what a client can set. An empty URI says that the target is not one that is served
	// here; the request is then refused.
	URI string

	// Authorization and DPoP are the lines of these header fields, one element each, in whatever number they came.
	// Verify counts them: a transport must neither choose among them nor join them.
	Authorization, DPoP []string

	// ClientCertificate is the certificate with which the client proved its key in the TLS handshake, or nil. It is
	// compared with tokens that are bound to a certificate (RFC 8705 §3); its chain is not looked at.
	ClientCertificate *x509.Certificate
}

// RequestFromHTTP returns the Request for r, whose target URI is uri; the query, if uri has none, is that of r. It does not
// read the Host field or any forwarding header; package dpophttp derives a URI from configured origins.
func RequestFromHTTP(r *http.Request, uri string) Request {
	if uri != "" && r.URL != nil && r.URL.RawQuery != "" && !strings.Contains(uri, "?") {
		uri += "?" + r.URL.RawQuery
	}
	req := Request{Method: r.Method, URI: uri, Authorization: r.Header["Authorization"], DPoP: r.Header["Dpop"]}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		req.ClientCertificate = r.TLS.PeerCertificates[0]
	}
	return req
}
