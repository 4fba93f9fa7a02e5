package dpophttp

import (
	"bufio"
	"net"
	"net/http"
)

// A nonceWriter sends a nonce with the answer of a handler that may set the same fields: a proxy that copies those of
// another server, or a cache policy. There must not be two nonces (RFC 9449 §8), and no cache may keep one (§8.2). It stands
// only where there is a nonce to be sent.
type nonceWriter struct {
	http.ResponseWriter
	nonce  string
	values [2]string // of the two fields, here so that they need no memory of their own
	isSet  bool
}

func (w *nonceWriter) set() {
	if !w.isSet {
		w.values = [2]string{w.nonce, "no-store"}
		h := w.Header()
		h["Dpop-Nonce"], h["Cache-Control"] = w.values[:1:1], w.values[1:] // what a handler adds to one is not in the other
	}
}

func (w *nonceWriter) WriteHeader(status int) {
	w.set()
	w.isSet = status >= 200 || status == http.StatusSwitchingProtocols // others come before the answer
	w.ResponseWriter.WriteHeader(status)
}

func (w *nonceWriter) Write(b []byte) (int, error) {
	w.set()
	w.isSet = true
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController. Flush and Hijack are for those who ask for an http.Flusher or http.Hijacker.
func (w *nonceWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// FlushError sends what there is, the fields first.
func (w *nonceWriter) FlushError() error {
	w.set()
	w.isSet = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *nonceWriter) Flush() { _ = w.FlushError() } // as in net/http, it cannot say that it failed

func (w *nonceWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}
