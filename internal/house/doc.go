// Package house holds tests of the project as a whole: who imports whom, what appears in exported signatures, whether the
// README shows code that compiles, and whether each row of the checklist has a test. The command in its folder deletion
// shows which test falls when a check is taken away.
package house
