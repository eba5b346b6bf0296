package probe

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// message is one request of netlink. Each but those that are quiet is answered by one acknowledgement, which may be an
// error.
type message struct {
	kind, flags uint16
	body        []byte
	quiet       bool
}

// patience bounds how long the kernel is waited for, in seconds; it answers at once.
const patience = 5

// ask sends messages in one datagram, and returns what the kernel says to each, in their order: 0 or what is wrong.
func ask(protocol int, messages ...message) ([]unix.Errno, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink protocol %d: %w", protocol, err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}); err != nil {
		return nil, err
	}
	var out []byte
	wait := map[uint32]int{} // numbers of messages, and where they are in messages
	for i, m := range messages {
		flags := m.flags | unix.NLM_F_REQUEST
		if !m.quiet {
			if flags&unix.NLM_F_DUMP != unix.NLM_F_DUMP {
				flags |= unix.NLM_F_ACK
			}
			wait[uint32(i+1)] = i
		}
		out = binary.NativeEndian.AppendUint32(out, uint32(unix.SizeofNlMsghdr+len(m.body)))
		out = binary.NativeEndian.AppendUint16(out, m.kind)
		out = binary.NativeEndian.AppendUint16(out, flags)
		out = binary.NativeEndian.AppendUint32(out, uint32(i+1))
		out = binary.NativeEndian.AppendUint32(out, 0)
		out = append(pad(out), pad(m.body)...)
	}
	if err := unix.Sendto(fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	answers, buffer := make([]unix.Errno, len(messages)), make([]byte, 64<<10)
	for len(wait) > 0 {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("an answer of netlink: %w", err)
		}
		ends(buffer[:n], func(sequence uint32, errno unix.Errno) {
			if i, ok := wait[sequence]; ok {
				answers[i] = errno
				delete(wait, sequence)
			}
		})
	}
	return answers, nil
}

// ends calls f for each message of a datagram that ends an answer: an acknowledgement, an error, or the end of a list.
func ends(b []byte, f func(sequence uint32, errno unix.Errno)) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return
		}
		kind, sequence := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:])
		if kind == unix.NLMSG_ERROR || kind == unix.NLMSG_DONE {
			var errno unix.Errno
			if size >= unix.SizeofNlMsghdr+4 {
				errno = unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])))
			}
			f(sequence, errno)
		}
		b = b[min(len(b), (size+3)&^3):]
	}
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// attribute is a value with its length and kind before it; several parts are one after the other, as in a nest.
func attribute(kind uint16, parts ...[]byte) []byte {
	size := 4
	for _, p := range parts {
		size += len(p)
	}
	b := binary.NativeEndian.AppendUint16(nil, uint16(size))
	b = binary.NativeEndian.AppendUint16(b, kind)
	for _, p := range parts {
		b = append(b, p...)
	}
	return pad(b)
}

func text(s string) []byte { return append([]byte(s), 0) }

func u16(n uint16) []byte { return binary.NativeEndian.AppendUint16(nil, n) }

func u32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// one asks for one thing.
func one(protocol int, m message) error {
	answers, err := ask(protocol, m)
	if err != nil {
		return err
	}
	if answers[0] != 0 {
		return answers[0]
	}
	return nil
}

// create are the flags of a request for something new.
const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL

// dummy is the number of a dummy interface in a namespace of a probe's own.
const dummy = 100

// newLink asks for an interface of a kind.
func newLink(number int32, name, kind string, lower int32, data []byte) message {
	// struct ifinfomsg: family, type, index, flags, change
	body := join(make([]byte, 4), u32(uint32(number)), make([]byte, 8), attribute(unix.IFLA_IFNAME, text(name)))
	if lower != 0 {
		body = append(body, attribute(unix.IFLA_LINK, u32(uint32(lower)))...)
	}
	info := attribute(unix.IFLA_INFO_KIND, text(kind))
	if data != nil {
		info = append(info, attribute(unix.IFLA_INFO_DATA|unix.NLA_F_NESTED, data)...)
	}
	return message{kind: unix.RTM_NEWLINK, flags: create,
		body: join(body, attribute(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, info))}
}

// tcBody is a struct tcmsg: family, interface, handle, parent, info; then the kind.
func tcBody(handle, parent, info uint32, kind string, options []byte) []byte {
	body := join(make([]byte, 4), u32(dummy), u32(handle), u32(parent), u32(info),
		attribute(unix.TCA_KIND, text(kind)))
	if options != nil {
		body = append(body, attribute(unix.TCA_OPTIONS|unix.NLA_F_NESTED, options)...)
	}
	return body
}

// sockDiag is SOCK_DIAG_BY_FAMILY of <linux/sock_diag.h>.
const sockDiag = 20

// diag asks for the sockets of a family, with what follows the family and its padding. Without the family's part of
// sock_diag the kernel answers ENOENT.
func diag(family byte, rest []byte) error {
	return one(unix.NETLINK_SOCK_DIAG, message{kind: sockDiag, flags: unix.NLM_F_DUMP,
		body: join([]byte{family, 0, 0, 0}, rest)})
}

// family wants a family of generic netlink.
func family(name string) func() error {
	return func() error {
		err := one(unix.NETLINK_GENERIC, message{kind: unix.GENL_ID_CTRL,
			body: join([]byte{unix.CTRL_CMD_GETFAMILY, 1, 0, 0}, attribute(unix.CTRL_ATTR_FAMILY_NAME, text(name)))})
		if err != nil {
			return fmt.Errorf("the family %s of netlink: %w", name, err)
		}
		return nil
	}
}

// nf is a message to a part of netfilter, with its struct nfgenmsg: family, version 0, and a number in network order.
func nf(part, command, flags uint16, fam byte, id uint16, attributes ...[]byte) message {
	return message{kind: part<<8 | command, flags: flags,
		body: join([]byte{fam, 0, byte(id >> 8), byte(id)}, join(attributes...))}
}
