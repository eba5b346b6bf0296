package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/remote/reach"
	"github.com/katabuild/katabuild/internal/usage"
)

// cacheFlags name caches on other machines.
type cacheFlags struct {
	from, to []string
	headers  string
	required bool
}

func (f *cacheFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVar(&f.from, "cache-from", nil, "take the outputs of steps from a cache on another machine, `URL`: "+
		reach.Forms+" (repeatable; default $KATABUILD_CACHE_FROM)")
	fl.StringArrayVar(&f.to, "cache-to", nil,
		"give the outputs of steps to such a cache, `URL` (repeatable; default $KATABUILD_CACHE_TO)")
	fl.StringVar(&f.headers, "cache-headers", "", "`file` of headers for servers of caches, such as keys of an API, "+
		"one a line: HOST[:PORT] NAME: VALUE (default $KATABUILD_CACHE_HEADERS)")
	fl.BoolVar(&f.required, "cache-required", false,
		"fail when the outputs of a step cannot be given to each --cache-to")
	usage.Rules(c, usage.Rule{Flag: "offline", Excludes: []string{"cache-from", "cache-to", "cache-required"},
		Why: "which reaches no network"})
}

// team is the caches that flags and environment name; nil where there are none.
func (f *cacheFlags) team(getenv func(string) string, c inputs.Config) (*remote.Team, error) {
	from, to, headers := f.from, f.to, f.headers
	if from == nil {
		from = strings.Fields(getenv("KATABUILD_CACHE_FROM"))
	}
	if to == nil {
		to = strings.Fields(getenv("KATABUILD_CACHE_TO"))
	}
	if f.required && len(to) == 0 {
		return nil, &usage.Error{Err: errors.New("--cache-required goes with --cache-to, or KATABUILD_CACHE_TO")}
	}
	if c.Offline || len(from)+len(to) == 0 {
		return nil, nil
	}
	access := reach.Access{Access: c.Registries}
	if headers == "" {
		headers = getenv("KATABUILD_CACHE_HEADERS")
	}
	if headers != "" {
		file, err := os.Open(headers)
		if err != nil {
			return nil, err
		}
		access.Headers, err = reach.ReadHeaders(file)
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", headers, err)
		}
	}
	t := &remote.Team{Store: c.Store, Required: f.required}
	for _, name := range from {
		cache, err := reach.Reader(name, access)
		if err != nil {
			return nil, errors.Join(badName(err), t.Close())
		}
		t.From = append(t.From, cache)
	}
	for _, name := range to {
		cache, err := reach.Writer(name, access)
		if err != nil {
			return nil, errors.Join(badName(err), t.Close())
		}
		t.To = append(t.To, cache)
	}
	return t, nil
}

// badName makes wrong usage of a name that is not that of a cache.
func badName(err error) error {
	if _, ok := errors.AsType[*reach.BadName](err); ok {
		return &usage.Error{Err: err}
	}
	return err
}
