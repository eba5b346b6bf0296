package registrytest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
)

// startTime is how long a registry may take to answer.
const startTime = 30 * time.Second

// Distribution runs Debian's docker-registry, which is the reference implementation, on loopback until the test ends,
// and returns its host and port. It needs the program.
func Distribution(t testing.TB) string {
	t.Helper()
	return distribution(t, "{inmemory: {}}")
}

// DistributionIn is Distribution that keeps what it has in a folder.
func DistributionIn(t testing.TB, dir string) string {
	t.Helper()
	return distribution(t, fmt.Sprintf("{filesystem: {rootdirectory: %s}}", dir))
}

func distribution(t testing.TB, storage string) string {
	t.Helper()
	testenv.Require(t, testenv.Tool("docker-registry"))
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: %s\nhttp: {addr: %s}\n", storage, host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // it was killed
	})
	for begin := time.Now(); time.Since(begin) < startTime; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + host + "/v2/")
		if err == nil {
			_ = resp.Body.Close() // nothing was read
			return host
		}
	}
	t.Fatalf("docker-registry does not answer: %s", &said)
	return ""
}
