package reapi

import "github.com/katabuild/katabuild/builder/remote"

// Far makes a client think that its server is on another machine, for which it packs streams.
func Far(c remote.Cache) { c.(*client).home = false }
