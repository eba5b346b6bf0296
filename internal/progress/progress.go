// Package progress carries what a long step is doing from packages to whoever shows it.
package progress

import "time"

// Kind says what an Event tells.
type Kind string

// The kinds of events. A step sends Start, any number of Update and Log, then Done, Hit or Fail.
const (
	Start  Kind = "start"
	Update Kind = "update"
	Log    Kind = "log"
	Done   Kind = "done"
	Hit    Kind = "hit"
	Fail   Kind = "fail"
)

// Event is one thing that happened to one step.
type Event struct {
	Step     string        // e.g. "kernel"
	Kind     Kind          //
	Message  string        // for people: the phase ("compile"), a log line, or the error
	Current  int64         // done so far, in Unit; zero when unknown
	Total    int64         // all there is to do, in Unit; zero when unknown
	Unit     string        // "bytes", "files"
	Elapsed  time.Duration // set by the receiver side for Done and Fail
	Expected time.Duration // how long the step took last time; zero when unknown
}

// Func receives events. It may be called from several goroutines, never after the step's function has returned, and
// must not block for long. Senders call Send, which allows a nil Func.
type Func func(Event)

// Send passes e on, or drops it when f is nil.
func (f Func) Send(e Event) {
	if f != nil {
		f(e)
	}
}
