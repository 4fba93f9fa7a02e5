//go:build race

package nonce_test

const raceEnabled = true
