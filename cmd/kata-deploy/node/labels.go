package node

import (
	"context"
	"regexp"
	"strings"
)

// Keys of labels. Where an installation has a suffix, so have its labels.
const (
	runtimeLabel   = "katacontainers.io/kata-runtime" // true: pods can run
	releaseLabel   = "katabuild.io/release"           // the version that is installed
	installedLabel = "katabuild.io/installed"         // an installation is there, or is being made
)

// label is a label of an installation.
func label(key, suffix string) string {
	if suffix == "" {
		return key
	}
	return key + "-" + suffix
}

// name is that of an installation: the value of its installedLabel.
func name(suffix string) string {
	if suffix == "" {
		return "default"
	}
	return suffix
}

// set changes labels of the node that are not what they should be; an empty value is none.
func (n *node) set(ctx context.Context, want map[string]string) error {
	have, err := n.api.Labels(ctx, n.Node)
	if err != nil {
		return err
	}
	change := map[string]*string{}
	for key, v := range want {
		key = label(key, n.Options.Suffix)
		now, there := have[key]
		switch {
		case v == "" && there:
			change[key] = nil
		case v != "" && now != v:
			change[key] = &v
		}
	}
	if len(change) == 0 {
		return nil
	}
	if err := n.api.Label(ctx, n.Node, change); err != nil {
		return err
	}
	for key, v := range change {
		if v == nil {
			n.log.Info("label taken away", "node", n.Node, "label", key)
		} else {
			n.log.Info("label set", "node", n.Node, "label", key+"="+*v)
		}
	}
	return nil
}

// notLabel matches what a label's value cannot have. Kubernetes: docs/concepts/overview/working-with-objects/labels.
var notLabel = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// labelValue makes a word fit to be a label's value.
func labelValue(s string) string {
	s = notLabel.ReplaceAllString(s, "_")
	return strings.Trim(s[:min(len(s), 63)], "._-")
}
