//! Where the file system puts new files.

use std::io;
use std::path::Path;

/// Makes a folder whose subfolders the file system keeps apart from each other on the disk.
///
/// ext4 looks for the number of a new file near its folder, and without a journal it examines every file
/// deleted there in the last minutes, each time. A folder that begins a group of its own is
/// away from all that: with 5,000 deletions behind it, making a file in it takes a tenth of the
/// time. Other file systems do not know the request (`chattr +T`), which changes nothing else.
///
/// # Errors
/// When the folder cannot be made.
pub fn create_spread_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
        if let Ok(folder) = std::fs::File::open(path)
            && let Ok(flags) = ioctl_getflags(&folder)
            && !flags.contains(IFlags::TOPDIR)
        {
            // A hint: where it is refused, files are made as everywhere else.
            let _unknown_here = ioctl_setflags(&folder, flags | IFlags::TOPDIR);
        }
    }
    Ok(())
}
