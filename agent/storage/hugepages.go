package storage

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/agent/storage/mount"
)

// reserve adds the pages of a hugetlbfs mount to those the kernel keeps, and gives them back at the end.
// Documentation/admin-guide/mm/hugetlbpage.rst.
func (m *Manager) reserve(h mount.Options, u *undo) error {
	text, ok := h.Get("pagesize")
	if !ok {
		return fmt.Errorf("hugetlbfs: the options have no pagesize")
	}
	page, err := parseSize(text)
	if err != nil {
		return fmt.Errorf("hugetlbfs: pagesize: %w", err)
	}
	if text, ok = h.Get("size"); !ok {
		return fmt.Errorf("hugetlbfs: the options have no size")
	}
	size, err := parseSize(text)
	if err != nil {
		return fmt.Errorf("hugetlbfs: size: %w", err)
	}
	if page < 1024 || size < page {
		return fmt.Errorf("hugetlbfs: %d bytes in pages of %d", size, page)
	}
	file := filepath.Join(m.c.Root, "sys/kernel/mm/hugepages", fmt.Sprintf("hugepages-%dkB", page/1024), "nr_hugepages")
	pages := size / page
	m.huge.Lock()
	defer m.huge.Unlock()
	before, err := readNumber(file)
	if err != nil {
		return fmt.Errorf("hugetlbfs: pages of %d bytes: %w", page, err)
	}
	if err := os.WriteFile(file, []byte(strconv.FormatInt(before+pages, 10)), 0); err != nil {
		return fmt.Errorf("hugetlbfs: %w", err)
	}
	u.add(func() error {
		m.huge.Lock()
		defer m.huge.Unlock()
		now, err := readNumber(file)
		if err != nil {
			return err
		}
		return os.WriteFile(file, []byte(strconv.FormatInt(max(0, now-pages), 10)), 0)
	})
	// The kernel takes what memory it finds, and does not complain.
	if now, err := readNumber(file); err != nil {
		return err
	} else if now < before+pages {
		return fmt.Errorf("hugetlbfs: the kernel found %d pages of %d bytes, want %d", now-before, page, pages)
	}
	return nil
}

// parseSize reads a number of bytes as mount options have it: with K, M or G, and B, or without.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "bB")
	shift := 0
	for _, unit := range []struct {
		letters string
		shift   int
	}{{"kK", 10}, {"mM", 20}, {"gG", 30}} {
		if cut := strings.TrimRight(digits, unit.letters); len(cut) == len(digits)-1 {
			digits, shift = cut, unit.shift
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is not a number of bytes", s)
	}
	return n << shift, nil
}

func readNumber(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}
