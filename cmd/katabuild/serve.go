package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/builder/remote/serve"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/usage"
)

// defaultAddress is where a store is served: on this host only, at the port that servers of this protocol have.
const defaultAddress = "127.0.0.1:9092"

type serveFlags struct {
	writable, open               bool
	cert, key, clients           string
	maxBlob, maxPending, maxConn int
}

func (a *app) serveCmd() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use: "serve [ADDRESS]", Args: cobra.MaximumNArgs(1),
		Short: "serve the store to other machines, as a remote build cache",
		Long: `serve answers the cache protocol of the Remote Execution API (gRPC) at ADDRESS, HOST:PORT (default ` +
			defaultAddress + `),
until it is interrupted: blobs by their digest, and the records of steps as results of actions. Other machines build
with "katabuild build --cache-from grpc://HOST:PORT". They believe a record only if they trust its writer: give them
what "katabuild store key" prints, for "katabuild store trust".

With --writable it takes what "katabuild build --cache-to" gives: blobs, and those records whose writers you trust.

An address that is not of this host wants TLS: --tls-cert and --tls-key; with --tls-client-ca only clients with a
certificate of that authority get in.`,
		Example: "  katabuild store serve\n  katabuild store serve 0.0.0.0:9092 --tls-cert cert.pem --tls-key key.pem",
	}
	fl := c.Flags()
	fl.BoolVar(&f.writable, "writable", false, "take blobs, and records of writers whom you trust")
	fl.StringVar(&f.cert, "tls-cert", "", "`file` of the server's certificate, in PEM form")
	fl.StringVar(&f.key, "tls-key", "", "`file` of the certificate's key")
	fl.StringVar(&f.clients, "tls-client-ca", "", "`file` of the authority that clients' certificates must be of")
	fl.BoolVar(&f.open, "plain", false, "serve other hosts without TLS: everybody on the way can read")
	fl.IntVar(&f.maxBlob, "max-blob", 16, "gigabytes of the largest blob to take")
	fl.IntVar(&f.maxPending, "max-pending", 64, "gigabytes of blobs to take before a record names them")
	fl.IntVar(&f.maxConn, "max-connections", 64, "connections to have at once")
	usage.Rules(c, append(append(usage.Need("tls-key", "tls-cert"), usage.Need("tls-cert", "tls-key",
		"tls-client-ca")...), usage.Need("writable", "max-blob", "max-pending")...)...)
	c.RunE = func(c *cobra.Command, args []string) error { return a.serve(c.Context(), f, args) }
	return c
}

func (a *app) serve(ctx context.Context, f serveFlags, args []string) error {
	address := defaultAddress
	if len(args) > 0 {
		address = args[0]
	}
	if f.maxBlob < 1 || f.maxPending < 1 || f.maxConn < 1 {
		return &usage.Error{Err: errors.New("limits are 1 or more")}
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return &usage.Error{Err: fmt.Errorf("%s: want HOST:PORT", address)}
	}
	if f.cert == "" && !f.open && !registry.IsHome(address) {
		return &usage.Error{Err: fmt.Errorf("%s can be reached from other hosts: want --tls-cert and --tls-key, "+
			"or --plain", address)}
	}
	s, err := a.openStore()
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards a.err
	o := serve.Options{Store: s, Writable: f.writable, MaxBlob: int64(f.maxBlob) * 1e9,
		MaxPending: int64(f.maxPending) * 1e9, MaxConnections: f.maxConn, Refused: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(a.err, "refused: %v\n", err)
		}}
	scheme := "grpc"
	if f.cert != "" {
		scheme = "grpcs"
		if o.TLS, err = serverTLS(f); err != nil {
			return err
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	how := "read only"
	if f.writable {
		how = "writable"
	}
	fmt.Fprintf(a.out, "serving %s at %s://%s, %s\n", s.Dir(), scheme, l.Addr(), how)
	return serve.New(o).Serve(ctx, l)
}

// serverTLS is how a server shows itself, and whom it lets in.
func serverTLS(f serveFlags) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", f.cert, err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if f.clients == "" {
		return c, nil
	}
	pem, err := os.ReadFile(f.clients)
	if err != nil {
		return nil, fmt.Errorf("authority of clients: %w", err)
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authority of clients: %s holds no certificate in PEM form", f.clients)
	}
	return c, nil
}
