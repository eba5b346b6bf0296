package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/printable"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/attest"
	"github.com/katabuild/katabuild/runtime/machine"
)

// reportTime bounds asking for a report: a guest that is ready answers at once.
const reportTime = 30 * time.Second

// probeTime bounds asking for probes beside it: all of them take a few seconds in a guest whose processor is emulated.
const probeTime = 3 * time.Minute

// nonceSize is that of the nonce which a report is bound to, in bytes.
const nonceSize = 32

// Attestation is what became of asking a guest what it is.
type Attestation struct {
	Verdict *verdict.Verdict
	Report  *report.Report // nil for a guest without a manifest, which is not asked
	Raw     []byte         // the report as the guest wrote it
}

// bounded is an error that may have a guest's words in it, in one line of printable text.
func bounded(err error) error {
	text := printable.Words(err.Error(), maxReason)
	if text == err.Error() {
		return err
	}
	return errors.New(text)
}

// maxReason bounds what is kept of a guest's words in an error, in bytes.
const maxReason = 4 << 10

// compareFiles has the files of the manifest compared that were not when they were opened, once, and at once where the
// guest is to be attested.
func (s *Sandbox) compareFiles(checked []string) {
	g := s.cfg.Guest
	if !g.Described() {
		return
	}
	s.files = sync.OnceValues(func() ([]verdict.Claim, error) { return attest.Files(g.Manifest, g.Dir, checked) })
	if s.cfg.Attest {
		s.wg.Go(func() { _, _ = s.files() }) // Attest gets both
	}
}

// Attest compares the guest that came up with its manifest: its files, its report, and its extensions. words are those
// on the kernel command line, behind the guest's own, that are the host's to add. Without a manifest the verdict is
// verdict.Unchecked. An error says that the guest could not be asked or the files not be read.
func (s *Sandbox) Attest(ctx context.Context, words []string) (*Attestation, error) {
	g := s.cfg.Guest
	if !g.Described() {
		return &Attestation{Verdict: verdict.Nothing(filepath.Base(g.Initrd + g.Image))}, nil // one of them is empty
	}
	limit := reportTime
	if len(s.cfg.Probes) > 0 {
		limit += probeTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	conn, err := s.Dial(ctx, agentapi.Port)
	if err != nil {
		return nil, fmt.Errorf("ask the guest what it is: %w", err)
	}
	client := agentapi.NewClient(ttrpc.NewClient(conn))
	defer client.Close() //nolint:errcheck // only read from
	r, raw, err := client.Report(ctx, nonce, s.cfg.Probes)
	if err != nil {
		return nil, fmt.Errorf("ask the guest what it is: %w", bounded(err))
	}
	traceGuest(s.boot, s.progress.start, Merge(s.Timeline(), r.Timeline))
	files, err := s.files()
	if err != nil {
		return nil, fmt.Errorf("compare the guest's files with its manifest: %w", err)
	}
	host := attest.Boot{Nonce: nonce, Words: words, Probes: s.cfg.Probes}
	if s.cfg.Saved != nil && s.cfg.Saved.Template.Digest != "" {
		host.Template = &s.cfg.Saved.Template
	}
	if h := s.cfg.Held; h != nil {
		host.Pool = &verdict.Pool{Ready: h.Ready}
		if h.Template.Digest != "" {
			host.Template = &h.Template
		}
	}
	if a, ok := s.plan.Machine.(machine.Appender); ok {
		host.Appended = a.Appends()
	}
	for _, e := range s.cfg.Extensions {
		host.Extensions = append(host.Extensions, e.Extension)
	}
	v := attest.Verdict(g.Manifest, g.Digest, files, &attest.Reported{Report: r, Raw: raw, Boot: host})
	return &Attestation{Verdict: v, Report: r, Raw: raw}, nil
}
