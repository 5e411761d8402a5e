"""Which names a source file may use: those of the headers that it, or a header of revode's that it includes, names. What only
happens to come along, by another header of the standard library, or by another file that is compiled in one piece with
this one, may be missing elsewhere. Only text is looked at.
"""
import re

# The header of the standard library's names, without std::; of those that several headers have, the usual one.
STANDARD_NAMES = {
    "algorithm": "sort stable_sort find find_if find_if_not copy copy_n copy_if fill fill_n max min minmax clamp any_of all_of"
                 " none_of max_element min_element minmax_element reverse unique lower_bound upper_bound equal_range count"
                 " count_if transform for_each remove_if partition partition_point stable_partition rotate shuffle"
                 " binary_search nth_element is_sorted generate search mismatch set_difference swap_ranges includes merge"
                 " lexicographical_compare adjacent_find replace ranges::equal ranges::contains",
    "array": "array",
    "atomic": "atomic atomic_flag atomic_ref",
    "bit": "bit_cast rotl rotr popcount countl_zero countr_zero bit_ceil bit_floor bit_width has_single_bit endian",
    "charconv": "from_chars to_chars",
    "chrono": "chrono",
    "cmath": "sqrt exp log log2 log10 log1p expm1 pow fabs floor ceil round lround llround isfinite isnan isinf sin cos tanh"
             " ldexp frexp fmod hypot nextafter trunc rint lrint nearbyint scalbn ilogb signbit copysign fma cbrt",
    "concepts": "same_as integral floating_point convertible_to invocable derived_from",
    "condition_variable": "condition_variable condition_variable_any",
    "csignal": "signal raise sig_atomic_t",
    "cstdint": "int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t uintptr_t",
    "cstdio": "FILE printf fprintf fopen fclose fflush fputs fwrite fread snprintf perror puts ferror setvbuf",
    "cstdlib": "getenv abort exit _Exit quick_exit atexit system malloc free aligned_alloc strtol strtod strtoull",
    "cstring": "memcpy memset memcmp memmove memchr strlen strerror strcmp strncmp strchr strstr",
    "deque": "deque",
    "exception": "exception_ptr current_exception rethrow_exception uncaught_exceptions terminate set_terminate",
    "filesystem": "filesystem",
    "fstream": "ifstream ofstream fstream",
    "functional": "function plus less greater minus multiplies bit_or invoke ref cref",
    "future": "future async promise packaged_task",
    "iomanip": "setw setprecision setfill",
    "iostream": "cout cerr cin clog",
    "iterator": "back_inserter inserter istreambuf_iterator istream_iterator make_move_iterator",
    "limits": "numeric_limits",
    "list": "list",
    "map": "map multimap",
    "memory": "unique_ptr shared_ptr weak_ptr make_unique make_shared enable_shared_from_this addressof",
    "mutex": "mutex lock_guard unique_lock scoped_lock once_flag call_once recursive_mutex",
    "new": "bad_alloc align_val_t nothrow",
    "numbers": "numbers",
    "numeric": "accumulate iota inner_product reduce partial_sum exclusive_scan inclusive_scan gcd lcm transform_reduce",
    "optional": "optional nullopt make_optional",
    "queue": "queue priority_queue",
    "random": "mt19937 mt19937_64 uniform_int_distribution uniform_real_distribution normal_distribution random_device",
    "ranges": "views",
    "regex": "regex",
    "set": "set multiset",
    "source_location": "source_location",
    "span": "span as_bytes as_writable_bytes",
    "sstream": "istringstream ostringstream stringstream",
    "stdexcept": "runtime_error logic_error invalid_argument out_of_range domain_error overflow_error length_error",
    "string": "string to_string stoi stol stoll stod stoull getline",
    "string_view": "string_view",
    "system_error": "system_error error_code errc generic_category system_category make_error_code",
    "thread": "thread this_thread jthread",
    "tuple": "tuple tie make_tuple forward_as_tuple apply",
    "type_traits": "is_same_v is_integral_v is_floating_point_v is_enum_v is_trivially_copyable_v enable_if_t decay_t"
                   " conditional_t underlying_type_t invoke_result_t remove_cvref_t is_base_of_v",
    "unordered_map": "unordered_map",
    "unordered_set": "unordered_set",
    "utility": "move pair swap forward exchange make_pair declval index_sequence make_index_sequence as_const to_underlying",
    "variant": "variant visit monostate get_if holds_alternative",
    "vector": "vector",
}
# Headers whose own declarations take another's names, which they so bring along.
BRINGS = {"system_error": {"charconv", "filesystem", "fstream", "mutex"}}
OTHER_NAMES = {"fmt/": "fmt", "nlohmann/": "nlohmann", "boost/": "boost"}

_BY_NAME = {name: header for header, names in STANDARD_NAMES.items() for name in names.split()}
_STANDARD = re.compile(r"\bstd::((?:ranges::)?\w+)")
_OTHER = re.compile(r"(?<![\w:])(" + "|".join(OTHER_NAMES.values()) + r")::")
_DEFINITION = re.compile(r"^(?:class|struct|enum class|enum)\s+(\w+)\b(?!.*;\s*$)|^using\s+(\w+)\s*=")
_DECLARED = re.compile(r"\b(?:class|struct|enum class|enum|typename|using)\s+(\w+)")
_WORD = re.compile(r"\b[A-Z]\w*[a-z]\w*\b")


def header_of(name):
    """Of the standard library's name behind std::; None where it is of no matter here."""
    return _BY_NAME.get(name) or _BY_NAME.get(name.removeprefix("ranges::"))


class IncludedNames:
    """lines_of(path): (number, include or None, code) for each line of a file of the repository. headers: those of revode.
    find(include, path): the path of the file of revode's that an include in `path` names, or None."""

    def __init__(self, headers, lines_of, find):
        self._lines_of, self._find = lines_of, find
        self._reached = {}
        where = {}
        for header in headers:
            for _, _, code in lines_of(header):
                if match := _DEFINITION.match(code):
                    where.setdefault(match[1] or match[2], set()).add(header)
        self._types = {name: next(iter(files)) for name, files in where.items() if len(files) == 1}

    def _reach(self, path):
        """(other headers, files of revode's, names declared) that are there in `path`."""
        if path not in self._reached:
            others, own, declared = set(), {path}, set()
            self._reached[path] = (others, own, declared)  # includes that go round in a circle end here
            for _, include, code in self._lines_of(path):
                declared.update(_DECLARED.findall(code))
                if not include:
                    continue
                target = self._find(include, path)
                if target is None:
                    others.add(include)
                else:
                    for mine, theirs in zip((others, own, declared), self._reach(target)):
                        mine |= theirs
        return self._reached[path]

    def missing(self, path):
        """(line, message) for the first use of each name whose header is not there."""
        others, own, declared = self._reach(path)
        told = set()

        def once(number, name, header):
            if header not in told:
                told.add(header)
                yield number, f"uses {name} without {header}"

        for number, include, code in self._lines_of(path):
            if include:
                continue
            for name in _STANDARD.findall(code):
                header = header_of(name)
                if header and not ({header} | BRINGS.get(header, set())) & others:
                    yield from once(number, f"std::{name}", f"<{header}>")
            for name in _OTHER.findall(code):
                folder = next(folder for folder, prefix in OTHER_NAMES.items() if prefix == name)
                if not any(other.startswith(folder) for other in others):
                    yield from once(number, f"{name}::", f"a header of {folder}")
            for name in _WORD.findall(code):
                header = self._types.get(name)
                if header and header not in own and name not in declared:
                    yield from once(number, name, str(header))
