#include "revode/run/run_lock.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/files/host.hpp"
#include "revode/files/json_text.hpp"
#include "revode/files/text_file.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// The file's size: the same at each sign of life, so that a reader never meets half of it.
constexpr std::size_t record_bytes = 512;

/// Who holds a folder, as the lock file has it.
struct Holder {
  std::string host, boot, process_space, job, since;
  std::int64_t process = 0;
  std::int64_t beats = 0;

  bool operator==(const Holder&) const = default;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Holder, host, boot, process_space, job, since, process, beats)

std::string link_target(const char* link) {
  std::error_code ignored;
  return fs::read_symlink(link, ignored).string();
}

Holder this_process() {
  Holder me;
  me.host = host_name();
  me.boot = first_line("/proc/sys/kernel/random/boot_id");
  me.process_space = link_target("/proc/self/ns/pid");
  const char* job = std::getenv("SLURM_JOB_ID");
  me.job = job == nullptr ? "" : job;
  me.since = utc_time();
  me.process = getpid();
  return me;
}

std::string in_words(const Holder& holder) {
  return fmt::format("process {} on {}{}, since {}", holder.process, holder.host,
                     holder.job.empty() ? "" : fmt::format(", SLURM job {}", holder.job),
                     holder.since);
}

std::optional<Holder> read_holder(const fs::path& file) {
  const auto record = parse_json(first_line(file));
  try {
    return record.get<Holder>();
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;  // Empty, or not ours.
  }
}

/// Same kernel, same numbers of processes, and there is none of that number.
bool is_known_to_be_dead(const Holder& holder) {
  const Holder me = this_process();
  return holder.boot == me.boot && !me.boot.empty() && holder.process_space == me.process_space &&
         ::kill(static_cast<pid_t>(holder.process), 0) != 0 && errno == ESRCH;
}

enum class SystemLock { held, busy, missing };

SystemLock take_system_lock(int descriptor) {
  // Of the open file, not of the process: it does not go when something else in the process closes
  // the file.
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(descriptor, F_OFD_SETLK, &lock) == 0) return SystemLock::held;
  return errno == EAGAIN || errno == EACCES ? SystemLock::busy : SystemLock::missing;
}

bool is_same_file(int descriptor, const fs::path& path) {
  struct stat open {
  }, named{};
  return ::fstat(descriptor, &open) == 0 && ::stat(path.c_str(), &named) == 0 &&
         open.st_ino == named.st_ino && open.st_dev == named.st_dev;
}

}  // namespace

struct RunLock::Impl {
  fs::path folder, file;
  LockSettings settings;
  int descriptor = -1;
  Holder me = this_process();
  std::mutex mutex;
  std::condition_variable_any wake;
  std::atomic<bool> lost{false};
  std::jthread heart;

  [[noreturn]] void refuse(const std::optional<Holder>& holder) const {
    throw input_error(
        "--output {}: a run is being written there ({}): wait for its end, or choose another "
        "folder",
        folder.string(), holder ? in_words(*holder) : "its holder has just begun");
  }

  void open() {
    struct stat found {};
    if (::lstat(file.c_str(), &found) == 0) {
      const bool ours = S_ISREG(found.st_mode) && (found.st_size == 0 || read_holder(file));
      REVODE_REQUIRE(ours,
                     "--output {}: its {} is no lock of revode's; remove it if you do not need it",
                     folder.string(), file_name);
    }
    descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    REVODE_REQUIRE(descriptor >= 0, "--output {}: can't be written: {}", folder.string(),
                   std::strerror(errno));
  }

  void close() { ::close(std::exchange(descriptor, -1)); }

  void write_record() {
    std::string text = to_text(nlohmann::json(me));
    text.resize(record_bytes - 1, ' ');
    text += '\n';
    // A sign of life that could not be written is followed by others.
    [[maybe_unused]] const ssize_t done = ::pwrite(descriptor, text.data(), text.size(), 0);
  }

  /// Looks at a holder for as long as `patience`; true where it gave a sign of life.
  bool shows_life(const Holder& holder, std::chrono::milliseconds patience) const {
    const Clock::time_point begin = Clock::now();
    print_note(fmt::format(
        "--output {}: {} may still be writing there; waiting up to {} s for a sign of life",
        folder.string(), in_words(holder), (patience.count() + 999) / 1000));
    while (Clock::now() - begin < patience) {
      std::this_thread::sleep_for(std::min(patience, settings.beat) / 10);
      const std::optional<Holder> now = read_holder(file);
      if (!now) return false;  // It has left.
      if (*now != holder) return true;
    }
    return false;
  }

  void follow(const Holder& holder, const char* why) const {
    print_note(
        fmt::format("--output {}: following {}, which {}", folder.string(), in_words(holder), why));
  }

  void take() {
    for (;;) {
      open();
      const SystemLock lock =
          settings.system_locks ? take_system_lock(descriptor) : SystemLock::missing;
      const std::optional<Holder> holder = read_holder(file);
      if (lock == SystemLock::busy) refuse(holder);
      // Its last holder may have removed the file between our opening and locking it.
      if (!is_same_file(descriptor, file)) {
        close();
        continue;
      }
      if (holder) settle(*holder, lock);
      if (lock == SystemLock::missing) replace_file();
      write_record();
      return;
    }
  }

  /// There is a record of a holder that did not leave in good order.
  void settle(const Holder& holder, SystemLock lock) const {
    if (is_known_to_be_dead(holder)) {
      if (lock == SystemLock::missing) follow(holder, "is no longer running");
      return;
    }
    // The system gave us the lock: the holder is gone, if it is one system. Some network file
    // systems lock for each node by itself; then the holder shows within a few beats.
    if (lock == SystemLock::held && holder.boot == me.boot) return;
    const auto patience = lock == SystemLock::held ? 3 * settings.beat : settings.silence;
    if (shows_life(holder, patience)) refuse(holder);
    follow(holder, "has given no sign of life");
  }

  /// A file of our own in the place of the holder's, which may come back to life: it then sees that
  /// it lost. Of several who do so at once the last one has it.
  void replace_file() {
    const fs::path fresh = fs::path(file).concat(fmt::format(".{}.{}", me.host, me.process));
    close();
    descriptor = ::open(fresh.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    REVODE_REQUIRE(descriptor >= 0, "--output {}: can't be written: {}", folder.string(),
                   std::strerror(errno));
    write_record();
    std::error_code failure;
    fs::rename(fresh, file, failure);
    if (failure) ::unlink(fresh.c_str());
    REVODE_REQUIRE(!failure, "--output {}: can't be written: {}", folder.string(),
                   failure.message());
    std::this_thread::sleep_for(settings.beat / 5);
    if (!is_same_file(descriptor, file)) refuse(read_holder(file));
  }

  /// Whether another process has taken the folder. A folder that is gone, or can't be looked into
  /// for a moment, says nothing.
  bool is_taken() const {
    struct stat ignored {};
    if (is_same_file(descriptor, file)) return false;
    const bool replaced = ::stat(file.c_str(), &ignored) == 0 || errno == ENOENT;
    return replaced && ::stat(folder.c_str(), &ignored) == 0 && !is_same_file(descriptor, file);
  }

  void beat(const std::stop_token& stop) {
    std::unique_lock lock(mutex);
    while (!wake.wait_for(lock, stop, settings.beat, [&] { return stop.stop_requested(); })) {
      if (stop.stop_requested()) return;
      if (is_taken()) lost = true;
      ++me.beats;
      write_record();
    }
  }
};

RunLock::RunLock(const fs::path& folder, LockSettings settings) : impl_(std::make_unique<Impl>()) {
  impl_->folder = folder;
  impl_->file = folder / RunLock::file_name;
  impl_->settings = settings;
  try {
    impl_->take();
  } catch (...) {
    if (impl_->descriptor >= 0) impl_->close();
    throw;
  }
  impl_->heart =
      std::jthread([impl = impl_.get()](const std::stop_token& stop) { impl->beat(stop); });
}

RunLock::~RunLock() {
  impl_->heart.request_stop();
  impl_->heart.join();
  if (is_same_file(impl_->descriptor, impl_->file)) ::unlink(impl_->file.c_str());
  impl_->close();
}

bool RunLock::held() const { return !impl_->lost; }

}  // namespace revode
