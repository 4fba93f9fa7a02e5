package replay

// A Statser is a [Store] that counts what it does. The stores of this project are; [SetNXFunc], which keeps nothing, is
// not. Stats may be called by any number of goroutines; while FirstUse runs, its fields need not be of one moment.
type Statser interface{ Stats() Stats }

// Stats say what a store holds now and what its answers were since it was made. A field of which a store has no notion is
// 0. There is nothing in it that would name a client or a proof. Errors that the caller is the cause of, such as an
// expires that is past, are not counted.
type Stats struct {
	Live     int64 // keys held in this process, some of which may have just expired
	Capacity int64 // keys that can be held in this process

	LocalReplays  int64 // repeated keys that this process knew of
	SharedReplays int64 // repeated keys that only the shared store knew of
	OwnRetries    int64 // first uses whose reply was lost, recognised as our own when the command was repeated

	Full        int64 // refusals with ErrFull
	Stale       int64 // refusals with ErrStale
	Unavailable int64 // refusals with any other error that the store is the cause of

	Degraded    int64 // first uses that this process granted alone, because the shared store failed
	BreakerOpen bool  // whether the shared store is left alone for the moment, because it failed
}
