// Command clone is the init of a guest that waits to be woken with the agent's own means, and then tells whoever
// connects to the API's port what it has drawn: by its kernel, by its C-like system calls, by Go.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"log"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/early"
	"github.com/katabuild/katabuild/agent/storage/machine"
	"github.com/katabuild/katabuild/agent/wake"
	"github.com/katabuild/katabuild/internal/agentapi"
)

// drawn is what must differ between guests.
type drawn struct {
	GetRandom  string
	UUID       string
	BootID     string
	TCP        string // the first sequence numbers of three connections
	MapSeed    string // what maphash makes of a text, whose seed is Go's
	MapOrder   string
	MathRandom string
	TLSKey     string
	AuxRandom  string // what the kernel gave the program at its start
	Time       time.Time
}

func main() {
	log.SetFlags(0)
	if _, _, woken := wake.Woken(os.Args); !woken {
		if err := early.Run(early.Table(), func(err error) { log.Print(err) }); err != nil {
			log.Fatal(err)
		}
		l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, agentapi.WakePort, nil)
		if err != nil {
			log.Fatal(err)
		}
		g := wake.Guest{Machine: machine.Machine{}, Now: func() time.Duration { return 1 }}
		log.Fatal(g.Wait(l, func() { fmt.Println(agentapi.WaitLine) }))
	}
	fmt.Println(agentapi.InitLine)
	l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, agentapi.Port, nil)
	if err != nil {
		log.Fatal(err)
	}
	d, err := draw()
	if err != nil {
		log.Fatal(err)
	}
	ready, err := vsock.Dial(agentapi.HostCID, agentapi.ReadyPort, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(ready, agentapi.ReadyLine)
	ready.Close()
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		if err := json.NewEncoder(c).Encode(d); err != nil {
			log.Print(err)
		}
		c.Close()
	}
}

func draw() (*drawn, error) {
	d := &drawn{Time: time.Now()}
	b := make([]byte, 32)
	if _, err := unix.Getrandom(b, 0); err != nil {
		return nil, err
	}
	d.GetRandom = hex.EncodeToString(b)
	for file, to := range map[string]*string{"uuid": &d.UUID, "boot_id": &d.BootID} {
		text, err := os.ReadFile("/proc/sys/kernel/random/" + file)
		if err != nil {
			return nil, err
		}
		*to = strings.TrimSpace(string(text))
	}
	d.MapSeed = fmt.Sprint(maphash.String(maphash.MakeSeed(), "a text"))
	many := map[int]bool{}
	for i := range 64 {
		many[i] = true
	}
	for i := range many {
		d.MapOrder += fmt.Sprint(i, " ")
	}
	d.MathRandom = fmt.Sprint(mathrand.Uint64(), mathrand.Uint64())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	raw, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	d.TLSKey = new(big.Int).SetBytes(raw).Text(16)
	aux, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return nil, err
	}
	d.AuxRandom = hex.EncodeToString(aux) // addresses, which differ as those of the program do
	d.TCP, err = sequences()
	return d, err
}

// sequences are the first sequence numbers of three connections, each to the same port from the same port.
func sequences() (string, error) {
	if err := early.LoopbackUp(); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:7000")
	if err != nil {
		return "", err
	}
	defer l.Close()
	var out []string
	for port := 8000; port < 8003; port++ {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}}
		c, err := dialer.Dial("tcp", l.Addr().String())
		if err != nil {
			return "", err
		}
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			return "", err
		}
		var n int
		var failed error
		if err := raw.Control(func(fd uintptr) { n, failed = sequence(int(fd)) }); err != nil || failed != nil {
			return "", fmt.Errorf("sequence number: %v, %v", err, failed)
		}
		out = append(out, fmt.Sprint(uint32(n)))
		c.Close()
	}
	return strings.Join(out, " "), nil
}

// sequence is the number of the next byte that a connection sends. tcp(7) does not tell of TCP_REPAIR; <linux/tcp.h>.
func sequence(fd int) (int, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1); err != nil {
		return 0, err
	}
	const sendQueue = 2
	if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, sendQueue); err != nil {
		return 0, err
	}
	n, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
	if err != nil {
		return 0, err
	}
	return n, unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 0)
}
