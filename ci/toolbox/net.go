package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func serve(args []string) error {
	if len(args) != 2 {
		return errors.New("serve wants an address and a text")
	}
	return http.ListenAndServe(args[0], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.Copy(w, r.Body)
			return
		}
		_, _ = io.WriteString(w, args[1])
	}))
}

func get(args []string) error {
	if len(args) != 1 {
		return errors.New("get wants a URL")
	}
	c := http.Client{Timeout: 20 * time.Second}
	r, err := c.Get(args[0])
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}

func vsockPorts(args []string) error {
	for i := range args {
		port, err := number(args, i)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: uint32(port)})
		}
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		if err == nil {
			fmt.Println(port, "ok")
			continue
		}
		fmt.Println(port, err)
	}
	return nil
}
