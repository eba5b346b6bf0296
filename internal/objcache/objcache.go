// Package objcache keeps what a C compiler made of a kernel's files, so that the next build compiles only what changed.
//
// It works inside the jail, beside the tree's own programs: Serve starts the kernel's make with a folder of compilers
// first in $PATH, each of which is Compile, and answers what they ask. A cached object is used only if the compiler
// would read the same bytes: the same command line, the same content of every file it read, the same values of those
// configuration options whose names occur in these files, and no new file that it would find earlier. Everything else
// is compiled. Whatever is wrong with the cache (missing, damaged, full) is a miss and never an error.
//
// What it holds is only as good as the programs that could write to it, so each tree writes to a folder of its own, a
// level; a build also reads the levels of trees that it is made of. Levels names them; Usage and Trim are for the
// builder, outside the jail. See docs/decisions/object-cache.md.
package objcache

import "crypto/sha256"

// version changes whenever this package keeps or finds objects in another way.
const version = "katabuild objects 1\n"

// sum names bytes.
type sum = [sha256.Size]byte
