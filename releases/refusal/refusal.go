// Package refusal names the reasons for which a release is not accepted, so that people and programs can tell them
// apart. docs/formats/release.md lists them.
package refusal

import "fmt"

// Reason is the name of a reason: a word that stays what it is.
type Reason string

// The reasons.
const (
	Digest       Reason = "wrong digest"        // bytes are not those that were promised
	Size         Reason = "wrong size"          // there are fewer or more of them
	Path         Reason = "path"                // a name leads out of its folder, or is none of a release
	Twice        Reason = "two of one name"     // two guests or files have the same name
	Document     Reason = "malformed"           // a document is not in its one form
	Architecture Reason = "wrong architecture"  // a guest is for another one than is said of it
	Manifest     Reason = "foreign manifest"    // a manifest is that of another guest
	Report       Reason = "foreign boot report" // a report or verdict is about other bytes
	Provenance   Reason = "foreign provenance"  // a statement is about other bytes
	SBOM         Reason = "foreign SBOM"        // a bill of materials is of another image
	NotAttested  Reason = "not attested"        // the guest has not booted to 'attested'
	Unsigned     Reason = "unsigned"            // nobody has signed
	UnknownKey   Reason = "unknown key"         // whoever signed is not in the policy
	Signature    Reason = "wrong signature"     // a signature is not over these bytes
	Threshold    Reason = "too few signatures"  // fewer known keys than the policy asks for have signed
	Channel      Reason = "channel"             // the policy does not take releases of this channel
	Lowest       Reason = "below the lowest"    // a version is lower than the policy's lowest
	Rollback     Reason = "rollback"            // a version is lower than one that was accepted before
	Policy       Reason = "unsafe policy"       // others could have written the policy
	Range        Reason = "wrong range"         // a server sends another part of a file than was asked for
	MediaType    Reason = "wrong media type"    // a server says that something is of another kind
	Recipe       Reason = "foreign recipe"      // a recipe or a lock is that of another guest
	Statement    Reason = "foreign statement"   // a statement that a release was reproduced is about another one
	Reproduced   Reason = "too few reproduced"  // fewer known keys than the policy asks for have reproduced a guest
	Expired      Reason = "expired"             // metadata of roles is older than it may be
	Version      Reason = "wrong version"       // metadata has another version than the one that was due
	Revoked      Reason = "revoked key"         // a key has signed that had a role and has none any more
	NotListed    Reason = "not listed"          // no role that may speak for a release offers it
	Slow         Reason = "too slow"            // metadata did not come in time
	Redirect     Reason = "redirect"            // a server sends us to another one
	Chunks       Reason = "foreign chunk list"  // a list of chunks makes other bytes than the file that it is of
	OCIIndex     Reason = "other index"         // a registry's index is not the one that the release makes
)

// Error is a refusal. errors.As finds it.
type Error struct {
	Reason Reason
	What   string // what is refused: a file, a guest, an address
	Detail string // what was wanted, what was got, and where there is one the way out
}

func (e *Error) Error() string { return fmt.Sprintf("%s: refused, %s: %s", e.What, e.Reason, e.Detail) }

// New makes one; detail is a format, as of fmt.Sprintf.
func New(r Reason, what, detail string, args ...any) error {
	return &Error{Reason: r, What: what, Detail: fmt.Sprintf(detail, args...)}
}
