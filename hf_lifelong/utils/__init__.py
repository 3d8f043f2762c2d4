"""What every room may use. Each module stands alone and is imported by its full name, so that a small thing such as
reading a file brings no large library along."""
