package node

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Removal says what is taken off all nodes.
type Removal struct {
	ConfigMap, Namespace string // its key state says absent from now on
	Suffix               string // of the installation
	Timeout              time.Duration
}

// stateKey is the key of the ConfigMap, and absent what it says when all is to go.
const (
	stateKey = "state"
	present  = "present"
	absent   = "absent"
)

// look is how often the nodes are asked for.
const look = 2 * time.Second

// Remove has every node take the installation off, and waits until none has it.
func Remove(ctx context.Context, r Removal, api API, log *slog.Logger) error {
	ctx, stop := context.WithTimeout(ctx, r.Timeout)
	defer stop()
	if err := again(ctx, api, log, func() error {
		return api.SetData(ctx, r.Namespace, r.ConfigMap, map[string]string{stateKey: absent})
	}); err != nil {
		return err
	}
	log.Info("nodes are told to take the runtime off", "configmap", r.Namespace+"/"+r.ConfigMap)
	left := -1
	for {
		var nodes []string
		if err := again(ctx, api, log, func() (err error) {
			nodes, err = api.Labelled(ctx, label(installedLabel, r.Suffix), name(r.Suffix))
			return err
		}); err != nil {
			return err
		}
		if len(nodes) == 0 {
			log.Info("no node has the runtime any more")
			return nil
		}
		if len(nodes) != left {
			log.Info("waiting for nodes", "left", len(nodes), "nodes", strings.Join(nodes, " "))
			left = len(nodes)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%v are over, and the runtime is still on %d nodes: %s; kata-deploy's log there says "+
				"why; for a node that is gone for good: kubectl label node NAME %s-", r.Timeout, len(nodes),
				strings.Join(nodes, ", "), label(installedLabel, r.Suffix))
		case <-time.After(look):
		}
	}
}

// again asks the API server until it can answer.
func again(ctx context.Context, api API, log *slog.Logger, ask func() error) error {
	for {
		err := ask()
		if err == nil || !api.Away(err) {
			return err
		}
		log.Warn("the API server cannot answer now; asking again", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(look):
		}
	}
}
