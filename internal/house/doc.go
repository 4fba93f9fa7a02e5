// Package house holds tests of the project as a whole: who imports whom, what appears in exported signatures, and whether
// the README shows code that compiles.
package house
