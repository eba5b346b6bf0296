// Package uevent hears from the kernel which devices come and go, and waits for those that others need.
//
// Messages of the kernel's kobject socket go in; a Wait that ends when a device is there comes out. What a device is
// for is the caller's business.
package uevent

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxMessage is the longest message the kernel makes: UEVENT_BUFFER_SIZE of <linux/kobject.h> for the variables, and a
// header with a path before it.
const maxMessage = 2048 + 4096 + 64

// The actions anybody here looks at. <linux/kobject.h>, enum kobject_action.
const (
	add    = "add"
	remove = "remove"
	move   = "move"
)

// Event is one message of the kernel: something happened to a device.
type Event struct {
	Action    string
	DevPath   string // below /sys, with the slash it begins with
	Subsystem string
	DevName   string // below /dev; empty for what has no device file
	OldPath   string // where a moved device was
	Major     int    // meaningful where DevName is
	Minor     int
}

// parse reads a message: ACTION@DEVPATH, then KEY=VALUE, each ended by a NUL. lib/kobject_uevent.c,
// kobject_uevent_net_broadcast. Keys nobody here asks for are passed over, since every driver may add some.
func parse(b []byte) (Event, error) {
	if len(b) > maxMessage {
		return Event{}, fmt.Errorf("uevent of %d bytes: longer than any of the kernel's", len(b))
	}
	head, rest, ended := bytes.Cut(b, []byte{0})
	action, path, ok := strings.Cut(string(head), "@")
	if !ended || !ok || action == "" || !strings.HasPrefix(path, "/") {
		return Event{}, fmt.Errorf("uevent that begins %q: want ACTION@/PATH", clip(head))
	}
	e := Event{Action: action, DevPath: path}
	for len(rest) > 0 {
		var word []byte
		word, rest, _ = bytes.Cut(rest, []byte{0})
		key, value, ok := strings.Cut(string(word), "=")
		if !ok {
			return Event{}, fmt.Errorf("uevent of %s: %q is not KEY=VALUE", path, clip(word))
		}
		var err error
		switch key {
		case "ACTION":
			if value != action {
				err = errors.New("another action than in its first line")
			}
		case "DEVPATH":
			if value != path {
				err = errors.New("another path than in its first line")
			}
		case "SUBSYSTEM":
			e.Subsystem = value
		case "DEVNAME":
			e.DevName = value
		case "DEVPATH_OLD":
			e.OldPath = value
		case "MAJOR":
			e.Major, err = number(value)
		case "MINOR":
			e.Minor, err = number(value)
		}
		if err != nil {
			return Event{}, fmt.Errorf("uevent of %s: %q: %w", path, clip(word), err)
		}
	}
	return e, nil
}

func number(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err
}

func clip(b []byte) []byte {
	const enough = 80
	return b[:min(len(b), enough)]
}
